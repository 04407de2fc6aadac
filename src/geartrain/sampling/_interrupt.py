"""Ctrl-C between steps instead of within one, so that chains are never left half moved."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any


class Interrupt:
    """Whether Ctrl-C was pressed inside `deferred`."""

    def __init__(self) -> None:
        self.pressed = False


@contextlib.contextmanager
def deferred() -> Iterator[Interrupt]:
    """The first Ctrl-C sets a flag that is looked at between steps; the second one interrupts at once."""
    interrupt = Interrupt()
    if threading.current_thread() is not threading.main_thread():
        yield interrupt  # signals go to the main thread only
        return
    before = signal.getsignal(signal.SIGINT)

    def press(number: int, frame: Any) -> None:
        if interrupt.pressed:
            raise KeyboardInterrupt
        interrupt.pressed = True

    if before is signal.SIG_IGN or before is None:
        yield interrupt
        return
    signal.signal(signal.SIGINT, press)
    try:
        yield interrupt
    finally:
        signal.signal(signal.SIGINT, before)
