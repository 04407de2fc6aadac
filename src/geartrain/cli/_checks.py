"""What is checked before the long work begins."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

from geartrain.cli._usage import UsageError
from geartrain.errors import InputError


def seconds(budget: str) -> float:
    """The budget in seconds.

    Raises:
        UsageError: It is no positive time.
    """
    from geartrain.budget import parse_seconds

    try:
        return parse_seconds(budget)
    except InputError as error:
        raise UsageError(f"--budget: {error}") from None


def device(name: str) -> None:
    """Refuse a device that does not exist.

    Raises:
        UsageError: It is not written as a device is.
        InputError: This machine has none.
    """
    match = re.fullmatch(r"cpu|mps|cuda(?::(\d+))?", name)
    if not match:
        raise UsageError(f"--device is {name!r}; allowed: cpu, cuda, cuda:N, mps.")
    if name == "cpu":
        return
    import torch

    if name == "mps":
        if torch.backends.mps.is_available():
            return
        raise InputError("--device mps was asked for, but PyTorch finds none here; use --device cpu.")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if int(match[1] or 0) >= count:
        raise InputError(
            f"--device {name} was asked for, but PyTorch finds {count or 'no'} CUDA device{'s' * (count != 1)} here; "
            "use --device cpu, or a PyTorch that was built for CUDA on a machine that has it."
        )


def folder(path: Path) -> Path:
    """Make sure that a folder can be written to, before minutes are spent on what goes there.

    Raises:
        InputError: It cannot.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except FileExistsError as error:
        raise InputError(f"The report folder {path} is a file. Choose another with --out FOLDER.") from error
    except OSError as error:
        raise InputError(
            f"The report folder {path} cannot be written to: {error.strerror or error}. "
            "Choose another with --out FOLDER."
        ) from error
    return path


def file_name(run_name: str) -> str:
    """A file name from the name of a run: letters, digits, dots and hyphens."""
    return re.sub(r"[^\w.]+", "-", run_name).strip("-.") or "run"
