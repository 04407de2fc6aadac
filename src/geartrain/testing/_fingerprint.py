"""Everything of a program that a measurement must leave alone, as one comparable value."""

from __future__ import annotations

import hashlib
import pickle
import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from geartrain.run import Run


def fingerprint(run: Run) -> dict[str, str]:
    """A digest of each part of the program's state; equal digests mean equal bits.

    Args:
        run: The run that is measured.

    Returns:
        Digests by part: parameters, gradients, buffers, flags, modes, hooks, optimizer, random numbers, data order,
        records, settings of torch. Two fingerprints are compared with ``==``; the keys that differ say what changed.
    """
    model = run.model
    parts: dict[str, Any] = {
        "parameters": dict(model.named_parameters()),
        "gradients": {name: p.grad for name, p in model.named_parameters()},
        "buffers": dict(model.named_buffers()),
        "requires_grad flags": [p.requires_grad for p in model.parameters()],
        "training modes": [m.training for m in model.modules()],
        "hooks": [_hooks(m) for m in model.modules()],
        "attributes": [sorted(map(str, vars(m))) for m in model.modules()],
        "optimizer": run.optimizer.state_dict(),
        "torch random numbers": torch.get_rng_state(),
        "numpy random numbers": list(np.random.get_state())[1:],  # noqa: NPY002 - the global one is what users seed
        "python random numbers": random.getstate(),
        "data order": str(run.stream.position()),
        "steps": (run.step_count, run.epochs_done),
        "start": None if run.origin is None else id(run.origin),
        "records": run.history.to_dict(),
        "settings of torch": _settings(),
    }
    return {name: _digest(part) for name, part in parts.items()}


def _hooks(module: nn.Module) -> list[int]:
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return [len(getattr(module, kind)) for kind in kinds]


def _settings() -> list[Any]:
    return [
        torch.get_default_dtype(),
        torch.get_num_threads(),
        torch.is_grad_enabled(),
        torch.are_deterministic_algorithms_enabled(),
        torch.backends.cuda.flash_sdp_enabled(),
        torch.backends.cuda.mem_efficient_sdp_enabled(),
        torch.backends.cuda.math_sdp_enabled(),
        torch.backends.mkldnn.enabled,
    ]


def _digest(thing: Any) -> str:
    digest = hashlib.sha256()
    _feed(digest, thing)
    return digest.hexdigest()


def _feed(digest: Any, thing: Any) -> None:
    if isinstance(thing, Tensor):
        array = thing.detach().cpu()
        digest.update(f"{array.dtype}{tuple(array.shape)}".encode())
        # Bits, not values: NaN is equal to itself, and bfloat16 has no numpy type.
        digest.update(array.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    elif isinstance(thing, np.ndarray):
        digest.update(f"{thing.dtype}{thing.shape}".encode() + thing.tobytes())
    elif isinstance(thing, Mapping):
        for key, value in thing.items():
            digest.update(str(key).encode())
            _feed(digest, value)
    elif isinstance(thing, (list, tuple)):
        digest.update(str(len(thing)).encode())
        for value in thing:
            _feed(digest, value)
    elif isinstance(thing, (str, int, float, bool, type(None), torch.dtype)):
        digest.update(repr(thing).encode())
    else:
        digest.update(pickle.dumps(thing))
