"""Claims: one owner, and none that is gone."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import threading
import time

import pytest

from geartrain.store import DiskFullError, Locks, locks


def foreign(folder, **changes):
    """A claim of a process of another machine."""
    owner = {"pid": 1, "host": "other", "machine": "other", "started": "1", "token": "t", **changes}
    (folder / "x.lock").write_text(json.dumps(owner))


def test_one_owner(tmp_path):
    with Locks(tmp_path) as mine, Locks(tmp_path) as yours:
        assert mine.claim("x")
        assert not yours.claim("x")
        assert not mine.stale("x")
        yours.release("x")  # not theirs: nothing happens
        assert mine.names() == {"x"}
        mine.release("x")
        assert yours.claim("x")
    assert Locks(tmp_path).names() == set()


def test_the_claim_of_a_dead_process_is_taken_over(tmp_path):
    take = "Locks(pathlib.Path(sys.argv[1])).__enter__().claim('x'); os._exit(9)"
    code = f"import os, sys, pathlib; from geartrain.store import Locks; {take}"
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)]).returncode == 9
    assert Locks(tmp_path).names() == {"x"}
    with Locks(tmp_path) as mine:
        assert mine.stale("x")
        assert mine.claim("x")
        assert not mine.stale("x")


def test_a_process_with_the_same_number_is_another_one(tmp_path):
    foreign(tmp_path, machine=locks._machine(), pid=os.getppid(), started="not when it started")
    assert Locks(tmp_path).stale("x")


def test_a_living_process_of_this_machine_needs_no_heartbeat(tmp_path):
    foreign(tmp_path, machine=locks._machine(), pid=os.getppid(), started=locks._started(os.getppid()))
    os.utime(tmp_path / "x.lock", (0, 0))
    with Locks(tmp_path, patience=0.0) as mine:
        assert not mine.claim("x")


def test_a_claim_that_an_interruption_left_in_this_process(tmp_path):
    foreign(tmp_path, machine=locks._machine(), pid=os.getpid(), started=locks._started(os.getpid()))
    with Locks(tmp_path) as mine:
        assert mine.claim("x")


@pytest.mark.parametrize("text", [None, "", "[]"])
def test_another_machine_is_given_up_when_it_gives_no_sign(tmp_path, text):
    foreign(tmp_path)
    if text is not None:
        (tmp_path / "x.lock").write_text(text)  # killed before it could say who it is
    with Locks(tmp_path, patience=0.05) as mine:
        assert not mine.claim(
            "x"
        )  # the first look starts the clock: the time on the file may be another clock's
        time.sleep(0.03)
        os.utime(tmp_path / "x.lock")
        assert not mine.claim("x")
        time.sleep(0.06)
        assert mine.claim("x")


def test_signs_of_life_are_given(tmp_path):
    with Locks(tmp_path, heartbeat=0.01) as mine:
        mine.claim("x")
        os.utime(tmp_path / "x.lock", (0, 0))
        until = time.monotonic() + 5
        while (tmp_path / "x.lock").stat().st_mtime == 0 and time.monotonic() < until:
            time.sleep(0.01)
        assert (tmp_path / "x.lock").stat().st_mtime > 0


def test_what_was_taken_over_is_not_given_back(tmp_path):
    with Locks(tmp_path) as mine:
        mine.claim("x")
        foreign(tmp_path)
    assert Locks(tmp_path).names() == {"x"}


def test_many_take_over_and_one_gets_it(tmp_path):
    foreign(tmp_path, machine=locks._machine(), pid=2**22 + 1)
    start, won = threading.Barrier(8), []

    def attempt():
        with Locks(tmp_path) as mine:
            start.wait()
            if mine.claim("x"):
                won.append(mine)
            start.wait()

    threads = [threading.Thread(target=attempt) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1


def test_no_room_for_a_claim(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "full")

    with Locks(tmp_path) as mine:
        monkeypatch.setattr(os, "write", full)
        with pytest.raises(DiskFullError, match="No room"):
            mine.claim("x")
        monkeypatch.undo()
        assert mine.names() == set()
        assert mine.claim("x")


def test_no_folder_no_claims(tmp_path):
    assert Locks(tmp_path / "nothing").names() == set()
    assert not Locks(tmp_path / "nothing").stale("x")


def test_a_child_that_waits_to_be_buried_is_gone():
    child = subprocess.Popen(["true"])
    until = time.monotonic() + 5
    while locks._started(child.pid) is not None and time.monotonic() < until:
        time.sleep(0.01)
    assert locks._started(child.pid) is None
    child.wait()
