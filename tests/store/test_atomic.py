"""Whole or not at all."""

from __future__ import annotations

import errno
import os

import pytest

from geartrain.store import DiskFullError, write_file, write_folder


def refuse(number):
    def no(*_, **__):
        raise OSError(number, os.strerror(number))

    return no


def test_a_file_is_replaced(tmp_path):
    for data in (b"one", b"two"):
        write_file(tmp_path / "x", data)
        assert (tmp_path / "x").read_bytes() == data
    assert os.listdir(tmp_path) == ["x"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, call, number):
    write_file(tmp_path / "x", b"old")
    with monkeypatch.context() as patch:
        patch.setattr(os, call, refuse(number))
        with pytest.raises(DiskFullError, match=r"No room to write in .* MB free\).*go on from there"):
            write_file(tmp_path / "x", b"new")
    assert (tmp_path / "x").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["x"]


def test_free_space_may_be_unknown(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", refuse(errno.ENOSPC))
    monkeypatch.setattr("shutil.disk_usage", refuse(errno.EIO))
    with pytest.raises(DiskFullError, match="free space unknown"):
        write_file(tmp_path / "x", b"new")


def test_other_errors_stay_what_they_are(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", refuse(errno.EIO))
    with pytest.raises(OSError, match="Input/output") as caught:
        write_file(tmp_path / "x", b"new")
    assert not isinstance(caught.value, DiskFullError)
    assert os.listdir(tmp_path) == []


def test_a_folder_appears_whole(tmp_path):
    assert write_folder(tmp_path / "unit", {"a": b"1", "b": b"2"}, scratch=tmp_path / "scratch")
    assert {p.name: p.read_bytes() for p in (tmp_path / "unit").iterdir()} == {"a": b"1", "b": b"2"}
    assert os.listdir(tmp_path) == ["unit"]


def test_the_first_to_make_a_folder_stays(tmp_path):
    write_folder(tmp_path / "unit", {"a": b"first"}, scratch=tmp_path / "scratch")
    assert not write_folder(tmp_path / "unit", {"a": b"second"}, scratch=tmp_path / "scratch")
    assert (tmp_path / "unit" / "a").read_bytes() == b"first"
    assert os.listdir(tmp_path) == ["unit"]


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), KeyboardInterrupt()])
def test_an_unfinished_folder_never_appears(tmp_path, monkeypatch, error):
    calls = []

    def second(handle):
        calls.append(handle)
        if len(calls) == 2:
            raise error

    monkeypatch.setattr(os, "fsync", second)
    with pytest.raises((DiskFullError, KeyboardInterrupt)):
        write_folder(tmp_path / "unit", {"a": b"1", "b": b"2"}, scratch=tmp_path / "scratch")
    assert os.listdir(tmp_path) == []
