import pytest
import torch

from geartrain.datasets import text
from geartrain.errors import InputError


def decode(split, codes):
    return "".join(split.classes[code] for code in codes)


@pytest.fixture(autouse=True)
def _no_other_text(monkeypatch):
    monkeypatch.delenv("GEARTRAIN_TEXT", raising=False)


def test_the_play_begins_as_it_should():
    split = text.load(length=40)
    assert decode(split, split.train[0][0]) == "SAMPSON:\nGregory, o' my word, we'll not "
    assert decode(split, split.train[1][0]) == "AMPSON:\nGregory, o' my word, we'll not c"


def test_every_target_is_the_next_character():
    for inputs, targets in text.load(length=50):
        assert torch.equal(inputs[:, 1:], targets[:, :-1])
        assert torch.equal(inputs[1:, 0], targets[:-1, -1])


def test_validation_follows_training_in_the_text():
    split = text.load(length=10)
    words = decode(split, split.validation[0].flatten().tolist())
    assert words not in decode(split, split.train[0].flatten().tolist())
    assert "story of more woe" in words


def test_another_file_by_argument_or_environment(tmp_path, monkeypatch):
    path = tmp_path / "other.txt"
    path.write_text("abcé" * 50, encoding="utf-8")
    by_argument = text.load(length=4, path=path)
    monkeypatch.setenv("GEARTRAIN_TEXT", str(path))
    by_environment = text.load(length=4)
    assert by_argument.classes == by_environment.classes == ("a", "b", "c", "é")
    assert torch.equal(by_argument.train[0], by_environment.train[0])
    assert str(path) in by_argument.source


def test_the_argument_beats_the_environment(tmp_path, monkeypatch):
    path = tmp_path / "other.txt"
    path.write_text("xy" * 50, encoding="utf-8")
    monkeypatch.setenv("GEARTRAIN_TEXT", "/nowhere")
    assert text.load(length=4, path=path).classes == ("x", "y")


def test_an_unreadable_file_is_refused(tmp_path):
    with pytest.raises(
        InputError, match=r"missing.txt' could not be read .* leave both the argument and GEARTRAIN_TEXT"
    ):
        text.load(path=tmp_path / "missing.txt")
    binary = tmp_path / "binary.txt"
    binary.write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(InputError, match="could not be read"):
        text.load(path=binary)


@pytest.mark.parametrize("length", [0, -3, 20_000])
def test_windows_that_do_not_fit_are_refused(length):
    with pytest.raises(InputError, match=rf"A window takes {length + 1} characters"):
        text.load(length=length)
