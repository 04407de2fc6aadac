"""Running a claim: registered before its data, resumed after a cut, judged by today's rule or not at all."""

from __future__ import annotations

import json

import numpy as np
import pytest
from tests.claims import small_effect

from geartrain import claims
from geartrain.claims import registration, running
from geartrain.errors import InputError, UnknownNameError


@pytest.fixture(autouse=True)
def known(monkeypatch):
    """The small claim, as if another package had brought it."""
    monkeypatch.setattr(claims._registry, "names", lambda: ["small_effect"])
    monkeypatch.setitem(claims._registry._loaded, "small_effect", small_effect.CLAIM)
    return claims.get("small-effect")


def run(claim, folder, **options):
    return claim.run(folder=folder, workers=0, progress=False, **options)


def test_a_full_run_reaches_a_verdict(known, tmp_path):
    verdict = run(known, tmp_path)
    assert verdict.outcome is claims.Outcome.SUPPORTED
    assert verdict.interval[0] < 1 < verdict.interval[1]
    assert verdict.deciding.name == "a"
    assert set(verdict.control) == {"mean zero"}
    assert "supported" in str(verdict)
    assert {p.name for p in tmp_path.iterdir()} >= {
        "registration.json",
        "record.json",
        "data.npz",
        "figure.svg",
    }


def test_the_record_gives_the_same_verdict_again(known, tmp_path):
    first = run(known, tmp_path)
    again = claims.load(tmp_path)
    assert again.to_dict() == first.to_dict()


def test_it_is_registered_before_the_data(known, tmp_path, monkeypatch):
    monkeypatch.setattr(small_effect.CLAIM, "compute", _stopped)
    with pytest.raises(KeyboardInterrupt):
        run(known, tmp_path)
    said = json.loads((tmp_path / "registration.json").read_bytes())
    assert said["parts"]["a"]["rule"].startswith("Supported if")
    assert said["seeds"] == list(range(8))
    assert not (tmp_path / "data.npz").exists()


def test_another_rule_does_not_judge_old_data(known, tmp_path, monkeypatch):
    run(known, tmp_path)
    monkeypatch.setattr(small_effect.CLAIM, "version", 2)
    stale = claims.load(tmp_path)
    assert stale.outcome is claims.Outcome.INCONCLUSIVE
    assert "changed after the data" in stale.withheld
    with pytest.raises(InputError, match="registered with another rule"):
        run(known, tmp_path)


def test_a_quick_run_gives_a_trend_and_no_verdict(known, tmp_path):
    verdict = run(known, tmp_path, scale="quick")
    assert verdict.seeds == (0, 1)
    assert verdict.outcome is claims.Outcome.INCONCLUSIVE
    assert "the trend is supported" in verdict.withheld


def test_few_seeds_give_no_verdict(known, tmp_path):
    assert "fewer than 8 seeds" in run(known, tmp_path, seeds=4).withheld


def test_more_seeds_compute_only_what_is_new(known, tmp_path, monkeypatch):
    asked = []
    compute = small_effect.CLAIM.compute
    monkeypatch.setattr(
        small_effect.CLAIM, "compute", lambda self, c, s: (asked.extend(s), compute(self, c, s))[1]
    )
    run(known, tmp_path)
    verdict = run(known, tmp_path, seeds=16)
    assert sorted(set(asked)) == list(range(16))
    assert len(asked) == 32  # two arms, no seed twice
    assert verdict.effect.count == 16


def test_cut_and_taken_up_again(known, tmp_path, monkeypatch):
    compute = small_effect.CLAIM.compute
    monkeypatch.setattr(
        small_effect.CLAIM,
        "compute",
        lambda self, c, s: _stopped() if c["arm"] == "control" else compute(self, c, s),
    )
    with pytest.raises(KeyboardInterrupt):
        run(known, tmp_path)
    monkeypatch.setattr(small_effect.CLAIM, "compute", compute)
    verdict = run(known, tmp_path)
    assert verdict.outcome is claims.Outcome.SUPPORTED
    assert (
        verdict.parts == run(known, tmp_path / "uncut").parts
        or verdict.effect == run(known, tmp_path / "b").effect
    )


def test_a_budget_that_is_over_gives_no_verdict(known, tmp_path):
    verdict = run(known, tmp_path, budget="1ms")
    assert verdict.outcome is claims.Outcome.INCONCLUSIVE
    assert "not all of it was run" in verdict.withheld
    assert run(known, tmp_path).outcome is claims.Outcome.SUPPORTED


def test_numbers_that_are_none_are_named(known, tmp_path, monkeypatch):
    compute = small_effect.CLAIM.compute

    def broken(self, config, seeds):
        found = compute(self, config, seeds)
        found["draws"][1][0, 0] = np.nan
        return found

    monkeypatch.setattr(small_effect.CLAIM, "compute", broken)
    verdict = run(known, tmp_path)
    assert any("draws not finite" in told for told in verdict.invalid)
    assert verdict.outcome is claims.Outcome.INCONCLUSIVE


def test_a_unit_that_fails_is_reported(known, tmp_path, monkeypatch):
    def failing(self, config, seeds):
        raise ValueError("no such arm")

    monkeypatch.setattr(small_effect.CLAIM, "compute", failing)
    verdict = run(known, tmp_path)
    assert any("no such arm" in told for told in verdict.invalid)
    assert verdict.outcome is claims.Outcome.INCONCLUSIVE


def test_instruments_are_held_against_the_zoo():
    assert running.gate(["hessian_trace"]) == {"hessian_trace": "passed on quadratic"}


def test_an_instrument_that_fails_on_the_zoo_closes_the_gate(known, tmp_path, monkeypatch):
    monkeypatch.setattr(small_effect.CLAIM, "instruments", ("good", "bad"))
    told = {"good": "passed on quadratic", "bad": "failed on quadratic"}
    monkeypatch.setattr(running, "_checked", told.__getitem__)
    verdict = run(known, tmp_path)
    assert verdict.gate == told
    assert verdict.withheld == "failed on the zoo: bad"


def test_the_fingerprint_is_of_what_decides(known, monkeypatch):
    before = registration.fingerprint(known, "full")
    for name, value in (("title", "Another"), ("changed", "Something"), ("draw", None)):
        monkeypatch.setattr(small_effect.CLAIM, name, value)
    assert registration.fingerprint(known, "full") == before
    assert registration.fingerprint(known, "quick") != before


def test_words_do_not_count_and_code_does(known, monkeypatch):
    source = registration.inspect.getsource(small_effect)
    before = registration.fingerprint(known, "full")

    def with_text(text):
        real = registration.inspect.getsource
        monkeypatch.setattr(
            registration.inspect, "getsource", lambda m: text if m is small_effect else real(m) if m else ""
        )
        found = registration.fingerprint(known, "full")
        monkeypatch.undo()
        return found

    assert (
        with_text(source.replace("A mean below one half.", "Nothing.").replace('"All draws."', '"All."'))
        == before
    )
    assert (
        with_text(source.replace('title: ClassVar = "A small effect"', 'title: ClassVar = "Small"')) == before
    )
    assert with_text(source.replace("claims.above(0.5)", "claims.above(0.4)")) != before


@pytest.mark.parametrize(
    ("options", "said"),
    [({"seeds": 1}, "two or more"), ({"scale": "huge"}, "must be one of full, long, quick, test")],
)
def test_bad_arguments(known, tmp_path, options, said):
    with pytest.raises(InputError, match=said):
        run(known, tmp_path, **options)


def test_no_record_there(tmp_path):
    with pytest.raises(InputError, match="no claim was run there"):
        claims.load(tmp_path)


def test_unknown_claims():
    with pytest.raises(UnknownNameError, match="small-effect"):
        claims.get("small-efect")


def _stopped(*_args):
    raise KeyboardInterrupt
