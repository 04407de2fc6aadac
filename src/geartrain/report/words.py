"""Numbers and judgements in words, the same in the page, the notebook and the terminal."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from datetime import datetime

import numpy as np

from geartrain.diagnosis.result import Diagnosis
from geartrain.records import Finding, ForkResult, Gear, Measurement, Verdict, format_number

GLYPHS: dict[Verdict, str] = {"kept": "✓", "broken": "✗", "unclear": "~", "not measured": "·"}
# Notes that only repeat the verdict.
_NO_REASON = ("not measured", "not tried")
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
# Terminals act on these (colours, cursor moves, reversed text); no name of a run needs them.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def number(x: float, digits: int = 3) -> str:
    """A number with true minus signs and powers of ten.

    >>> number(-0.5), number(3.2e-9), number(float("nan"))
    ('−0.500', '3.20×10⁻⁹', 'NaN')
    """
    mantissa, _, exponent = format_number(float(x), digits).partition("e")
    power = f"×10{exponent.translate(_SUPERSCRIPT)}" if exponent else ""
    return mantissa.replace("-", "−") + power


def short_number(x: float) -> str:
    """A number without trailing zeros, for ticks of an axis.

    >>> short_number(0.1), short_number(2000.0), short_number(1e-6)
    ('0.1', '2,000', '10⁻⁶')
    """
    text = number(x)
    if "×" in text:
        mantissa, power = text.split("×")
        mantissa = mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa
        return power if mantissa == "1" else f"{mantissa}×{power}"
    if float(x).is_integer() and abs(x) >= 1000:
        return f"{int(x):,}".replace("-", "−")
    return text.rstrip("0").rstrip(".") if "." in text else text


def unit_suffix(unit: str) -> str:
    """The unit behind a number; nothing for pure numbers."""
    return "" if unit in {"", "1"} else f" {unit}"


def with_error(value: float, error: float, unit: str = "1") -> str:
    """A value with its standard error; the value is shown down to the error's second digit.

    >>> with_error(152.337, 0.331), with_error(64.0, 0.0, "ℓ"), with_error(1.5, float("nan"))
    ('152.34 ± 0.33', '64 ℓ', '1.50 (error unknown)')
    >>> with_error(-4.6e-16, 0.24), with_error(0.02673, 6.2e-4), with_error(-0.55, 1.1)
    ('0.00 ± 0.24', '0.02673 ± 0.00062', '−0.6 ± 1.1')
    """
    suffix = unit_suffix(unit)
    # Below the rounding of a double an error says nothing.
    if not math.isfinite(value) or error <= 1e-9 * abs(value):
        return (short_number(value) if _whole(value) else number(value)) + suffix
    if math.isnan(error):
        return f"{number(value)}{suffix} (error unknown)"
    if not 1e-5 <= error < 1e3 or abs(value) >= 1e6:
        return f"{number(value, _digits(value, error))} ± {number(error, 2)}{suffix}"
    decimals = max(1 - math.floor(math.log10(error)), 0)
    return f"{_fixed(value, decimals)} ± {_fixed(error, decimals)}{suffix}"


def share(x: float) -> str:
    """A probability in percent, never rounded to certainty.

    >>> share(0.973), share(0.9999), share(0.0001), share(float("nan"))
    ('97%', '>99%', '<1%', 'unknown')
    """
    if not math.isfinite(x):
        return "unknown"
    if x < 0.01:
        return "<1%"
    return ">99%" if x > 0.99 else f"{round(100 * x)}%"


def gain(effect: float | None, error: float | None) -> str:
    """A gain with its error, in percent of the baseline loss.

    >>> gain(0.3821, 0.0142), gain(-0.5, 0.1), gain(None, None), gain(float("nan"), 0.1), gain(-0.001, 0.24)
    ('+38.2 ± 1.4%', '−50 ± 10%', 'not measured', 'not finite', '0 ± 24%')
    """
    if effect is None:
        return "not measured"
    if not math.isfinite(effect):
        return "not finite"
    spread = 100 * error if error is not None and math.isfinite(error) else math.nan
    decimals = 1 if spread < 9.5 or (math.isnan(spread) and abs(effect) < 0.1) else 0
    if abs(effect) >= 10:
        return f"{'+' if effect > 0 else ''}{number(100 * effect)}%"
    centre = _fixed(100 * effect, decimals)
    if effect > 0 and float(centre) > 0:
        centre = f"+{centre}"
    return f"{centre}%" if math.isnan(spread) else f"{centre} ± {spread:.{decimals}f}%"


def gain_judgement(effect: float | None, error: float | None) -> str:
    """What a gain amounts to, beside its error: one of five phrases."""
    if effect is None:
        return "not tried on a fork"
    if not math.isfinite(effect):
        return "the fork did not end with a finite loss"
    if error is None or not math.isfinite(error):
        return "error unknown"
    if abs(effect) <= 2 * error:
        return "within two standard errors of no change"
    if effect > 1.02:
        return "of the baseline loss won back (the original had climbed above the baseline)"
    return "of the baseline loss won back" if effect > 0 else "worse: this change does harm here"


def signed(x: float) -> str:
    """A number with its sign, to two decimals.

    >>> signed(1.5), signed(-0.25), signed(0.0)
    ('+1.50', '−0.25', '0.00')
    """
    if not math.isfinite(x):
        return number(x)
    return f"{x:+.2f}".replace("-", "−") if abs(x) >= 0.005 else "0.00"


def seconds(s: float) -> str:
    """A duration for people.

    >>> seconds(0.0421), seconds(52.34), seconds(200.0), seconds(7260.0)
    ('0.04 s', '52.3 s', '3 min 20 s', '2 h 1 min')
    """
    if not math.isfinite(s):
        return "unknown"
    if s < 119.95:
        return f"{s:.2f} s" if s < 1 else f"{s:.1f} s"
    minutes, rest = divmod(round(s), 60)
    if minutes < 120:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min"


def date(iso: str) -> str:
    """An ISO time for people; anything else as it came.

    >>> date("2026-07-04T09:30:00+00:00"), date("yesterday")
    ('4 July 2026, 09:30 UTC', 'yesterday')
    """
    try:
        when = datetime.fromisoformat(iso)
    except ValueError:
        return iso
    return f"{when.day} {when:%B %Y, %H:%M} UTC"


def count(n: int, noun: str, plural: str = "") -> str:
    """A number and its noun.

    >>> count(1, "fork"), count(3, "fork"), count(0, "gear")
    ('1 fork', '3 forks', '0 gears')
    """
    return f"{n} {noun if n == 1 else plural or noun + 's'}"


def joined(parts: Sequence[str]) -> str:
    """A list in a sentence.

    >>> joined(["a"]), joined(["a", "b", "c"])
    ('a', 'a, b and c')
    """
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}" if parts else ""


def plain(text: object) -> str:
    """Text without control characters, so that a name cannot steer a terminal or break a page."""
    return _CONTROL.sub("", str(text))


def measured(gear: Gear) -> str:
    """What was measured for a gear, with error and unit."""
    if gear.measured is None or gear.verdict == "not measured":
        return "not measured"
    return with_error(gear.measured, gear.standard_error, gear.unit)


def reading(measurement: Measurement) -> str:
    """The value of any measurement with its error; arrays by their range."""
    if not measurement.status.usable:
        return "no value"
    values = np.asarray(measurement.value)
    if not np.issubdtype(values.dtype, np.number) or np.iscomplexobj(values):
        return count(values.size, "value")
    values = values.astype(float)
    if values.ndim == 0:
        return with_error(float(values), float(np.asarray(measurement.standard_error)))
    if values.size <= 4:
        return ", ".join(number(v) for v in values.ravel())
    finite = values[np.isfinite(values)]
    shape = " × ".join(str(n) for n in values.shape)
    return f"{shape} values, {_range(finite)}{_missing(values.size - finite.size)}"


def leading(diagnosis: Diagnosis) -> tuple[Finding, ...]:
    """Findings that are more likely than not."""
    return tuple(f for f in diagnosis.findings if f.probability > 0.5)


def lesser(diagnosis: Diagnosis) -> tuple[Finding, ...]:
    """Findings that are possible but not likely."""
    return tuple(f for f in diagnosis.findings if not f.probability > 0.5)


def uncalibrated(diagnosis: Diagnosis) -> bool:
    """Whether the diagnosis says that its probabilities were not calibrated."""
    return re.search(r"\b(un|not |never )calibrated", diagnosis.calibration, re.IGNORECASE) is not None


def calibration(diagnosis: Diagnosis) -> str:
    """How the probabilities were come by, without the word that the notice already says."""
    text = re.sub(
        r"^\s*(un|not )calibrated\s*[:;,.]\s*", "", diagnosis.calibration, flags=re.IGNORECASE
    ).strip()
    return text[:1].upper() + text[1:] or "Read the probabilities as an order."


def tally(gears: Iterable[Gear]) -> dict[Verdict, int]:
    """How many gears there are of each verdict."""
    verdicts = [g.verdict for g in gears]
    return {verdict: verdicts.count(verdict) for verdict in GLYPHS}


def tally_words(gears: Iterable[Gear]) -> str:
    """The tally in words, without the empty ones."""
    return ", ".join(f"{n} {verdict}" for verdict, n in tally(gears).items() if n) or "no gears"


def against(finding: Finding) -> Gear | None:
    """The gear that weighs most against a mechanism: a broken one, else any that counts against it."""
    broken = [g for g in finding.predictions if g.verdict == "broken"]
    doubtful = [g for g in finding.predictions if g.weight < 0 and g.verdict != "not measured"]
    return min(broken or doubtful, key=lambda g: g.weight, default=None)


def why_not(finding: Finding) -> str:
    """Why a mechanism was ruled out, in one phrase."""
    gear = against(finding)
    if gear is not None:
        return f"{plain(gear.title)}: expected {plain(gear.expected)}, measured {measured(gear)}"
    if any(g.verdict != "not measured" for g in finding.predictions):
        return "nothing measured speaks clearly against it, but nothing speaks for it"
    return f"not judged: {_reasons(finding) or 'none of its predictions could be measured'}"


def _reasons(finding: Finding) -> str:
    """Why its gears were not measured, each reason once."""
    notes = [plain(g.note).strip().rstrip(".") for g in finding.predictions]
    return "; ".join(list(dict.fromkeys(n for n in notes if n and not n.startswith(_NO_REASON)))[:2])


def end_losses(fork: ForkResult) -> tuple[float, float] | None:
    """Loss of the original and of the fork where they end, or None where neither is finite."""
    if not len(fork.reference) or not len(fork.losses):
        return None
    ends = float(fork.reference[-1]), float(fork.losses[-1])
    return ends if any(map(math.isfinite, ends)) else None


def from_to(fork: ForkResult) -> str:
    """``3.98 → 1.00``: where the original ends, where the fork does; nothing where that is not known."""
    ends = end_losses(fork)
    return " → ".join(_end(x) for x in ends) if ends else ""


def _end(loss: float) -> str:
    return number(loss) if math.isfinite(loss) else "not finite"


def length(fork: ForkResult) -> str:
    """How far a fork went, and how far it was meant to go if the budget ended it."""
    planned = float(fork.details.get("planned", math.nan))
    if fork.complete or not planned > fork.steps:
        return count(fork.steps, "step")
    return f"{fork.steps:,} of {planned:,.0f} steps: the budget ended it"


def remedy_fork(diagnosis: Diagnosis, finding: Finding) -> ForkResult | None:
    """The fork that tried the remedy; where several checkpoints have one of that name, the one reported."""
    named = [fork for fork in diagnosis.forks if fork.name == finding.remedy_fork]
    effect = finding.remedy_effect
    return next((fork for fork in named if fork.gain == effect), named[0] if named else None)


def best_fork(diagnosis: Diagnosis) -> ForkResult | None:
    """The fork that gained most."""
    gained = [f for f in diagnosis.forks if math.isfinite(f.gain) and not f.diverged]
    return max(gained, key=lambda f: f.gain, default=None)


def checked(diagnosis: Diagnosis) -> str:
    """What was looked at, one sentence."""
    mechanisms = len(diagnosis.findings) + len(diagnosis.ruled_out)
    measurements, forks = len(diagnosis.measurements), len(diagnosis.forks)
    evidence = f"{count(measurements, 'measurement')} and {count(forks, 'fork')}"
    return f"{count(mechanisms, 'mechanism')} weighed against {evidence}."


def overview(diagnosis: Diagnosis) -> str:
    """What a healthy run was checked for and what came nearest, one or two sentences."""
    nearest = [f"{plain(f.title)} ({share(f.probability)})" for f in lesser(diagnosis)[:3]]
    tail = f" Nearest suspicions: {joined(nearest)}." if nearest else " No suspicion remains."
    return checked(diagnosis) + (tail if diagnosis.findings or diagnosis.ruled_out else "")


def _whole(x: float) -> bool:
    return math.isfinite(x) and float(x).is_integer() and abs(x) < 1e5


def _fixed(x: float, decimals: int) -> str:
    """Fixed decimals with a true minus sign, which a number that rounds to zero loses."""
    text = f"{x:.{decimals}f}"
    return text.lstrip("-") if float(text) == 0 else text.replace("-", "−")


def _digits(value: float, error: float) -> int:
    if value == 0 or not math.isfinite(error):
        return 3
    return min(max(math.floor(math.log10(abs(value))) - math.floor(math.log10(abs(error))) + 2, 2), 6)


def _range(finite: np.ndarray) -> str:
    if finite.size == 0:
        return "none finite"
    low, middle, high = (number(float(v)) for v in (finite.min(), np.median(finite), finite.max()))
    return f"{low} to {high}, median {middle}"


def _missing(n: int) -> str:
    return f" ({n} not finite)" if n else ""
