"""Train many networks of one architecture at once; take up trainings from their files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from geartrain._torch import flat, kernels
from geartrain.ensemble import calibration, plan
from geartrain.ensemble import checkpoint as files
from geartrain.ensemble.batches import Batches, whole
from geartrain.ensemble.checkpoint import Checkpoint
from geartrain.ensemble.driver import Progress, Task
from geartrain.ensemble.ensemble import Ensemble, Report, Work
from geartrain.ensemble.members import MakeModel, Members, create, new_model
from geartrain.ensemble.recording import History, Record
from geartrain.ensemble.settings import Settings, masks_of
from geartrain.ensemble.stopping import Watch
from geartrain.errors import InputError

Loss = Callable[[Any, Any], Tensor]


def train(
    make_model: MakeModel,
    data: Any,
    *,
    loss: Loss,
    optimizer: str = "adam",
    lr: Any = 1e-3,
    steps: int = 2000,
    seeds: Any = 256,
    batch_size: Any = None,
    weight_decay: Any = 0.0,
    momentum: Any = None,
    betas: Any = (0.9, 0.999),
    eps: Any = 1e-8,
    alpha: Any = 0.99,
    schedule: Any = None,
    clip_grad_norm: Any = None,
    average: Any = None,
    label_noise: Any = 0.0,
    subset: Any = None,
    mask: Any = None,
    initial: Any = None,
    stop: Any = None,
    record: Record | int | None = None,
    engine: str = "auto",
    chunk: int | None = None,
    memory: int | float | str | None = None,
    checkpoint: Checkpoint | str | Path | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    progress: bool | Report | None = None,
) -> Ensemble:
    """Train many networks of one architecture as one batched computation.

    Member s is defined by its seed: ``torch.manual_seed(s); make_model()``; its data order, label noise and dropout
    come from generators seeded by s. It equals, within rounding, the network that `alone` trains by itself with the
    same seed and settings, whatever the engine, the chunk and the company. Settings marked (*) may be one value, or
    one per member (a list or tensor).

    **Cost** ``seeds * steps`` gradients, plus a calibration of a few steps per engine. Memory is planned beforehand.

    **Assumes** that ``loss`` is the mean over the examples of the batch.

    **Misleads** as a set of independent experiments: members share the data, so error bars over seeds are about
    initialisation and order, not about other data (give each its ``subset`` for that).

    Args:
        make_model: Makes one network; called once per seed.
        data: ``(inputs, targets)`` tensors, a dataset or a loader (joined and held in memory).
        loss: ``loss(outputs, targets) -> scalar``, the mean over the examples.
        optimizer: ``"sgd"``, ``"momentum"``, ``"nesterov"``, ``"adam"``, ``"adamw"`` or ``"rmsprop"`` (`torch.optim`).
        lr: Step size (*).
        steps: Optimizer steps.
        seeds: Number of members (seeds 0, 1, ...), or the seeds.
        batch_size: Examples per step (*); all (in their own order) if ``None``. Epochs are fresh permutations, laid
            end to end, so that every batch has this size.
        weight_decay: As in `torch.optim` (*).
        momentum: Of sgd (default 0), momentum and nesterov (0.9), rmsprop (0) (*).
        betas: Of adam and adamw: a pair, or one per member.
        eps: Of adam, adamw and rmsprop (*).
        alpha: Of rmsprop (*).
        schedule: ``"constant"``, ``"cosine"``, a `Schedule`, or a function of the step that returns the factor of the
            step size (or one per member).
        clip_grad_norm: Largest norm of a member's gradient (*); infinity or ``None`` for no clipping.
        average: ``"ema"``, ``"swa"``, a decay, or an `Average`: kept beside the parameters.
        label_noise: Share of wrong labels, exactly ``round(share * examples)`` of them (*); for floating targets other
            than 0 and 1 the standard deviation of Gaussian noise.
        subset: Indices of the examples: one list for all, or one per member.
        mask: ``{name: 0/1 tensor}``, with a member axis or without, a list of such dicts, or a matrix: parameters that
            are held at zero.
        initial: Begin from these parameters instead: a matrix (members, params), a vector, a state dict, or one per
            member.
        stop: A loss at which a member stops, or a `Stop`. A loss that is no number always stops a member.
        record: Steps between records of the loss on all data, or a `Record` with metrics and instruments.
        engine: ``"auto"`` tries those that can run this on a few steps; or the name of one.
        chunk: Members at a time; chosen if ``None``.
        memory: Limit: bytes, or ``"2GB"``; four fifths of what is free if ``None``.
        checkpoint: File to save to now and then; if it exists, training goes on from it.
        dtype: Cast models and floating data to this type.
        device: Train there.
        progress: A function that is told sentences, beginning with the plan; ``True`` shows them on the terminal.

    Returns:
        The ensemble.

    Raises:
        InputError: A setting is wrong, the memory does not suffice, or the checkpoint belongs to something else.
        UnsupportedError: The engine asked for cannot run this model.

    References:
        Kingma, Ba (2015), arXiv:1412.6980; Loshchilov, Hutter (2019), arXiv:1711.05101; Polyak (1964); Nesterov
        (1983); Izmailov et al. (2018), arXiv:1803.05407.

    >>> x, y = torch.ones(4, 1), torch.zeros(4, 1)
    >>> loss = nn.functional.mse_loss
    >>> nets = train(lambda: nn.Linear(1, 1), (x, y), loss=loss, optimizer="sgd", lr=0.25, steps=1, seeds=3)
    >>> nets.parameters.shape, bool((nets.evaluate() < 1e-12).all())
    (torch.Size([3, 2]), True)
    """
    settings = Settings.of(
        seeds,
        optimizer=optimizer,
        lr=lr,
        steps=steps,
        batch_size=batch_size,
        weight_decay=weight_decay,
        momentum=momentum,
        betas=betas,
        eps=eps,
        alpha=alpha,
        schedule=schedule,
        clip_grad_norm=clip_grad_norm,
        average=average,
        label_noise=label_noise,
        subset=subset,
        stop=stop,
    )
    to_file, recorded = Checkpoint.of(checkpoint), Record.of(record)
    content = files.load(to_file.path) if to_file is not None and Path(to_file.path).exists() else None
    ready = _Prepared(make_model, data, loss, settings, mask, dtype, device, memory, steps)
    print_ = files.fingerprint(
        settings.state_dict(), ready.batches.inputs, ready.batches.targets, mask, initial, loss, ready.names
    )
    if content is not None and content["fingerprint"] != print_:
        raise InputError(
            f"{to_file and to_file.path} holds a training with other settings, data or architecture; pass the same "
            "ones to go on from it, or another path (or delete the file) to begin anew."
        )
    members = create(make_model, settings.seeds, dtype=dtype, device=ready.device, initial=initial)
    nets = _assembled(ready, members, content, engine, chunk, to_file, recorded, _reporter(progress), print_)
    return nets.train(max(0, steps - nets.steps))


class _Prepared:
    """Everything up to the point where memory is taken."""

    def __init__(
        self,
        make_model: MakeModel,
        data: Any,
        loss: Loss,
        settings: Settings,
        mask: Any,
        dtype: torch.dtype | None,
        device: torch.device | str | None,
        memory: int | float | str | None,
        steps: int,
    ) -> None:
        if not callable(make_model) or isinstance(make_model, nn.Module):
            raise InputError(
                f"make_model is a {type(make_model).__name__}; it must be a function without arguments that returns a "
                "new module, for example lambda: nn.Linear(2, 1)."
            )
        if not callable(loss):
            raise InputError(f"loss is a {type(loss).__name__}; it must be a function of (outputs, targets).")
        place = None if device is None else torch.device(device)
        first = new_model(make_model, settings.seeds[0], dtype, place)
        self.layout = flat.layout_of(flat.select(first, None))
        self.names = [*self.layout.names, str(first)]
        self.device = next(first.parameters()).device
        self.dtype, self.loss, self.settings = dtype, loss, settings
        self.batches = Batches(
            whole(data, self.device, dtype),
            settings.seeds,
            settings.batch_size,
            settings.label_noise,
            settings.subset,
            kernels.draws_random_numbers(first),
        )
        self.steps = steps
        self.limit = plan.limit_of(memory, self.device)
        self.footprint = self._footprint(first, mask is not None, steps)
        self.footprint.largest_chunk(settings.members, self.limit, lambda _: 1)
        self.mask = masks_of(mask, self.layout, settings.members)
        if self.mask is not None:
            self.mask = self.mask.to(self.device)

    def _footprint(self, first: nn.Module, masked: bool, steps: int) -> plan.Footprint:
        widest = max(range(self.settings.members), key=lambda i: self.batches.batch[i])
        batch = self.batches.one(widest)
        states = len(self.settings.rule.state_names) + (self.settings.average is not None)
        return calibration.footprint(
            first,
            self.layout,
            states=states,
            masked=masked,
            steps=steps,
            shared=self.batches.nbytes,
            activations=plan.saved_bytes(first, self.loss, batch),
            batch=plan.nbytes((batch.inputs, batch.targets)),
        )


def _assembled(
    ready: _Prepared,
    members: Members,
    content: dict[str, Any] | None,
    engine: str,
    chunk: int | None,
    checkpoint: Checkpoint | None,
    record: Record | None,
    report: Report | None,
    fingerprint: str,
) -> Ensemble:
    task = Task(members, ready.settings, ready.batches, ready.mask)
    state, history = Progress.start(task), History()
    if content is not None:
        state.load_state_dict(content["progress"])
        history = History.from_state_dict(content["history"])
        # The same engine and chunk, or the last bits would differ from an uninterrupted training.
        engine = content["engine"] if engine == "auto" else engine
        chunk = content["chunk"] if chunk is None else chunk
    built, how = calibration.choose(
        task,
        state,
        ready.loss,
        engine=engine,
        chunk=chunk,
        limit=ready.limit,
        prints=ready.footprint,
        steps=ready.steps,
    )
    if report is not None:
        report(str(how))
    return Ensemble(
        layout=ready.layout,
        settings=ready.settings,
        progress=state,
        history=history,
        work=Work(task, built, ready.loss, ready.dtype, fingerprint),
        plan=how,
        record=record,
        checkpoint=checkpoint,
        report=report,
    )


def restored(
    path: str | Path,
    make_model: MakeModel | None = None,
    data: Any = None,
    loss: Loss | None = None,
    *,
    schedule: Any = None,
    record: Record | int | None = None,
    memory: int | float | str | None = None,
    checkpoint: Checkpoint | str | Path | None = None,
    device: torch.device | str | None = None,
    progress: bool | Report | None = None,
) -> Ensemble:
    """See `Ensemble.load`."""
    content = files.load(path, device)
    settings = Settings.from_state_dict(content["settings"], schedule)
    layout = flat.Layout(
        tuple(content["layout"]["names"]),
        tuple(torch.Size(shape) for shape in content["layout"]["shapes"]),
        tuple(getattr(torch, name) for name in content["layout"]["dtypes"]),
    )
    kept = content["progress"]
    if make_model is None or data is None or loss is None:
        if (make_model, data, loss) != (None, None, None):
            raise InputError(
                "Pass make_model, data and loss together, or none of them (then only the numbers are read)."
            )
        watch = Watch(settings.stop, None, settings.members, kept["params"].dtype, kept["params"].device)
        watch.load_state_dict(kept["watch"])
        state = Progress(
            kept["params"],
            kept["buffers"],
            kept["optimizer"],
            kept["average"],
            watch,
            kept["taken"],
            kept["step"],
        )
        history = History.from_state_dict(content["history"])
        return Ensemble(
            layout=layout, settings=settings, progress=state, history=history, work=None, plan=None
        )
    dtype = layout.dtypes[0] if len(set(layout.dtypes)) == 1 else None
    mask = None if content["mask"] is None else content["mask"].float()
    steps = kept["step"]
    ready = _Prepared(make_model, data, loss, settings, mask, dtype, device, memory, steps)
    if ready.layout != layout:
        raise InputError(
            f"make_model makes networks with other parameters than those in {path}; the file has "
            f"{', '.join(layout.names)} ({layout.num_params} numbers in all)."
        )
    first = create(make_model, settings.seeds[:1], dtype=dtype, device=ready.device)
    members = Members(
        first.template, layout, kept["params"].clone(), {k: v.clone() for k, v in kept["buffers"].items()}
    )
    return _assembled(
        ready,
        members,
        content,
        "auto",
        None,
        Checkpoint.of(checkpoint),
        Record.of(record),
        _reporter(progress),
        content["fingerprint"],
    )


def _reporter(progress: bool | Report | None) -> Report | None:
    if progress is None or progress is False:
        return None
    if progress is not True:
        return progress
    from rich.console import Console

    console = Console(stderr=True)
    return lambda sentence: console.print(sentence, highlight=False, markup=False)
