"""Writes that are either whole or not there, whatever happens in between.

A file is written beside its place, flushed to the disk and renamed; so is a folder of files. Whoever looks sees the
old state or the new one. A full disk becomes one clear error, and leaves nothing half-written behind.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path

from geartrain.errors import GeartrainError

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class DiskFullError(GeartrainError, OSError):
    """The disk, or the quota on it, has no room for what was to be written; nothing was left half-written."""


def write_file(path: Path, data: bytes) -> None:
    """Put ``data`` in the file, replacing what was there, in one step.

    Raises:
        DiskFullError: There was no room; the file is what it was before.
    """
    scratch = path.with_name(f".{path.name}-{uuid.uuid4().hex}.partial")
    with clear_when_full(path.parent):
        try:
            _write(scratch, data)
            os.replace(scratch, path)
        except BaseException:
            with contextlib.suppress(OSError):
                scratch.unlink()
            raise
        _flush_folder(path.parent)


def write_folder(path: Path, files: Mapping[str, bytes], *, scratch: Path) -> bool:
    """Make a folder that holds exactly these files, in one step.

    Args:
        path: The folder to make.
        files: Contents by file name.
        scratch: A name on the same disk where the folder is put together; must not exist.

    Returns:
        Whether the folder was made; False when another process had already made it, which is left as it is.

    Raises:
        DiskFullError: There was no room; ``path`` does not exist.
    """
    with clear_when_full(path.parent):
        try:
            scratch.mkdir()
            for name, data in files.items():
                _write(scratch / name, data)
            _flush_folder(scratch)
            # Renaming onto a folder that holds something fails: whoever was first stays.
            os.rename(scratch, path)
        except OSError as error:
            shutil.rmtree(scratch, ignore_errors=True)
            if path.is_dir() and error.errno in {errno.ENOTEMPTY, errno.EEXIST, errno.EACCES}:
                return False
            raise
        except BaseException:
            shutil.rmtree(scratch, ignore_errors=True)
            raise
        _flush_folder(path.parent)
    return True


@contextlib.contextmanager
def clear_when_full(folder: Path) -> Iterator[None]:
    """Turn the operating system's words for a full disk, a quota or a size limit into a `DiskFullError`."""
    try:
        yield
    except OSError as error:
        if isinstance(error, DiskFullError) or error.errno not in _FULL:
            raise
        raise DiskFullError(
            f"No room to write in {folder} ({os.strerror(error.errno or 0)}; {_free(folder)}). What was finished is "
            "safe; make room and go on from there."
        ) from error


def _free(folder: Path) -> str:
    try:
        return f"{shutil.disk_usage(folder).free / 1e6:.1f} MB free"
    except OSError:
        return "free space unknown"


def _write(path: Path, data: bytes) -> None:
    with open(path, "xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _flush_folder(folder: Path) -> None:
    # The rename itself must reach the disk too. Where folders cannot be opened (Windows) it is not needed.
    with contextlib.suppress(PermissionError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
