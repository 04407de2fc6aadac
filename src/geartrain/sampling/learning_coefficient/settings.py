"""What a user may say, under geartrain's names and under devinterp's."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from geartrain.errors import InputError

DEVINTERP = {
    "lr": "step_size",
    "nbeta": "n_beta",
    "localization": "localisation",
    "num_chains": "chains",
    "num_draws": "draws",
    "num_burnin_steps": "burn_in",
    "num_steps_bw_draws": "thin",
    "sampling_method": "kernel",
    "seed": "generator",
}
"""devinterp's name, and ours."""

EXACT = ("hmc", "mala")
LEAPFROG_STEPS = 8
TARGET_ACCEPTANCE = 0.9
"""Shorter steps than in regular posteriors: singular ones have steep and flat places."""
FULL_DATA = 8192
"""Up to so many examples every step uses all of them; above, minibatches of n·beta examples (at most 1,024)."""


@dataclass(frozen=True)
class Settings:
    """How to sample; see `geartrain.llc`."""

    kernel: str = "hmc"
    chains: int = 8
    draws: int = 200
    burn_in: int = 100
    thin: int = 1
    step_size: Any = "auto"
    baseline: str = "paired"
    bias: float = 0.05
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def adjusted(self) -> bool:
        """Whether steps are accepted or rejected."""
        return self.kernel in EXACT


def translated(given: Mapping[str, Any], names: Mapping[str, Any]) -> dict[str, Any]:
    """``given`` (those of ours that are not ``None``) with devinterp's names put into ours.

    Raises:
        InputError: A name is unknown, or said in both vocabularies.
    """
    result = {name: value for name, value in given.items() if value is not None}
    for name, value in names.items():
        ours = DEVINTERP.get(name)
        if ours is None:
            raise InputError(
                f"{name!r} is not an option of llc; allowed: {', '.join(given)}; and devinterp's "
                f"{', '.join(DEVINTERP)}. Options of the kernel go into kernel_options=."
            )
        if ours in result:
            raise InputError(f"{name} and {ours} are the same option; got both. Pass one of them.")
        if value is not None:
            result[ours] = value
    return result


def settle(options: Mapping[str, Any], num_examples: int) -> tuple[Settings, dict[str, Any]]:
    """Settings, and what belongs to the potential (batch_size), with every default filled in.

    Raises:
        InputError: Something that cannot be.
    """
    given = dict(options)
    batch = given.pop("batch_size", None)
    kernel = given.pop("kernel", "auto")
    if not isinstance(kernel, str):
        kernel = getattr(kernel, "__name__", str(kernel)).lower()  # devinterp passes its sampler's class
    own_step = given.get("step_size", "auto") != "auto"
    if kernel == "auto":
        few = num_examples <= FULL_DATA and batch is None
        kernel = "hmc" if few and not own_step else "sgld"
    if batch is None and kernel not in EXACT and num_examples > FULL_DATA:
        batch = int(min(1024, max(64, default_n_beta(num_examples))))
    if batch is not None and kernel in EXACT and batch < num_examples:
        raise InputError(
            f"kernel={kernel!r} accepts or rejects by the exact loss and needs all data; batch_size is {batch}. "
            "Leave batch_size out, or pass kernel='sgld'."
        )
    adjusted = kernel in EXACT
    draws = given.pop("draws", 200 if adjusted else 1000)
    thin = given.pop("thin", 1)
    for name, value, least in (("draws", draws, 4), ("thin", thin, 1)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise InputError(f"{name} is {value!r}; it must be a whole number, at least {least}.")
    burn_in = given.pop("burn_in", max(50, draws * thin // 2))
    extra = dict(given.pop("kernel_options", {}))
    if kernel == "hmc":
        extra = {"steps": LEAPFROG_STEPS, "target_acceptance": TARGET_ACCEPTANCE} | extra
    settings = Settings(kernel=kernel, draws=draws, thin=thin, burn_in=burn_in, options=extra, **given)
    if settings.baseline not in ("paired", "full"):
        raise InputError(f"baseline is {settings.baseline!r}; allowed: 'paired', 'full'.")
    if not 0 < settings.bias < 1:
        raise InputError(f"bias is {settings.bias}; it must be a share of the value between 0 and 1.")
    if isinstance(settings.chains, bool) or not isinstance(settings.chains, int) or settings.chains < 1:
        raise InputError(f"chains is {settings.chains!r}; it must be a whole number, at least 1.")
    return settings, {"batch_size": batch}


def default_n_beta(num_examples: int) -> float:
    """N / log n, the inverse temperature 1/log n at which the free energy is lambda log n; n below three examples.

    >>> round(default_n_beta(1024), 1)
    147.7
    """
    return num_examples / max(math.log(num_examples), 1.0)


def n_beta_of(given: Any, num_examples: int) -> float:
    """A number from what users write.

    Raises:
        InputError: It is none.
    """
    if given is None or given == "n/log n":
        return default_n_beta(num_examples)
    if isinstance(given, (int, float)) and not isinstance(given, bool) and math.isfinite(given) and given > 0:
        return float(given)
    raise InputError(f"n_beta is {given!r}; allowed: a positive number, or 'n/log n' (the default).")
