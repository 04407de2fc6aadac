"""The learning coefficient as it is handed out: a measurement with its interval, bias, health and traces."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from geartrain.errors import InputError
from geartrain.records import Measurement, format_number
from geartrain.sampling.learning_coefficient.health import Caution, Health
from geartrain.store import write_file


@dataclass(frozen=True)
class LearningCoefficient(Measurement):
    """A local learning coefficient; everything but value, error and status lies in ``details``."""

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the value, by Student's t over chains and effective draws."""
        return self.details["interval"]

    @property
    def predicted_bias(self) -> float:
        """What step size and minibatches add to the value: 0 for exact kernels, NaN where it cannot be predicted."""
        return self.details["predicted_bias"]

    @property
    def corrected(self) -> float:
        """The value without the predicted bias."""
        return float(self.value) - self.predicted_bias

    @property
    def health(self) -> Health:
        """What the sampler did."""
        return self._of_chains("health")

    @property
    def warnings(self) -> tuple[Caution, ...]:
        """Named warnings, the gravest first; empty if nothing is wrong."""
        return self.details["warnings"]

    @property
    def trace(self) -> np.ndarray:
        """nβ(L(w) - L(w*)) at every draw of the chains that count, shape (chains, draws)."""
        return self._of_chains("trace")

    @property
    def n_beta(self) -> float:
        """Number of examples times inverse temperature."""
        return self.details["n_beta"]

    def _of_chains(self, name: str) -> Any:
        if name not in self.details:
            raise InputError(f"There is no {name}, since no draws were made: {self.status.sentence}")
        return self.details[name]

    def warned(self, name: str) -> bool:
        """Whether there is a warning of that name."""
        return any(caution.name == name for caution in self.warnings)

    def to_devinterp(self) -> dict[str, Any]:
        """The keys of devinterp's results: llc/mean, llc/std, llc-chain/i, llc/means, llc/trace, loss/trace, ...

        ``llc/std`` is, as there, the spread of the chains' means, not an error of ``llc/mean``.
        """
        trace = self.trace
        start, beta = self.details["start_loss"], self.n_beta
        running = np.cumsum(trace, 1) / np.arange(1, trace.shape[1] + 1)
        by_chain = trace.mean(1)
        ddof = 1 if len(trace) > 1 else 0
        result: dict[str, Any] = {
            "init_loss": start,
            "llc/mean": float(self.value),
            "llc/std": float(by_chain.std(ddof=ddof)),
            "llc/means": running.mean(0),
            "llc/stds": running.std(0, ddof=ddof),
            "llc/trace": running,
            "loss/trace": start + trace / beta,
        }
        return result | {f"llc-chain/{i}": float(value) for i, value in enumerate(by_chain)}

    def to_html(self, path: str | Path, title: str = "") -> Path:
        """Write the sampler's health as one offline page: traces, running means, diagnostics, warnings.

        Args:
            path: File to write.
            title: Of what this is the coefficient.

        Returns:
            The file.

        Raises:
            InputError: The folder cannot be written.
        """
        from geartrain.report import sampler

        path = Path(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_file(path, sampler.render(self, title).encode())
        except OSError as error:
            raise InputError(
                f"Cannot write {path}: {error.strerror or error}. Choose a folder that you may write to."
            ) from error
        return path

    def __str__(self) -> str:
        value = float(self.value)
        if value != value:
            return f"{self.name}: no value ({self.status})"
        f, (low, high) = format_number, self.interval
        bias = self.predicted_bias
        told = {True: "not predicted for this kernel", False: f(bias)}[bias != bias]
        lines = [
            f"{self.name} = {f(value)} ± {f(float(self.standard_error))} "
            f"(95 %: {f(low)} to {f(high)}), predicted bias {told}, {self.details['setting']}"
        ]
        lines += [f"  {line}" for line in self.health.lines()]
        lines += [f"  Warning, {caution}" for caution in self.warnings]
        if self.status.sentence and not self.warnings:
            lines.append(f"  {self.status}")
        return "\n".join(lines)

    __repr__ = __str__
