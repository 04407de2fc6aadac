"""Optimizers as elementwise updates of all members at once, each with its own settings; equal to `torch.optim`.

Parameters, gradients and states are matrices (members, params). A setting that is the same for all members of a
chunk enters as a number, else as a column.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from geartrain.errors import InputError, UnknownNameError

Column = float | Tensor

# Name for users -> the rule in torch.optim that it is, whose further settings are the hyper-parameters beside it.
NAMES = {
    "sgd": "sgd",
    "momentum": "sgd",
    "nesterov": "sgd",
    "adam": "adam",
    "adamw": "adamw",
    "rmsprop": "rmsprop",
}


@dataclass(frozen=True)
class Rule:
    """An optimizer with the settings of every member.

    Attributes:
        name: ``"sgd"``, ``"adam"``, ``"adamw"`` or ``"rmsprop"``.
        settings: Shape (members,) each, float64 on the CPU: ``weight_decay`` and ``momentum``, ``nesterov`` (0 or 1),
            ``beta1``, ``beta2``, ``eps``, ``alpha``, as far as the rule has them.
    """

    name: str
    settings: Mapping[str, Tensor]

    @property
    def state_names(self) -> tuple[str, ...]:
        """Names of the matrices (members, params) that the rule keeps between steps."""
        if self.name in ("adam", "adamw"):
            return ("exp_avg", "exp_avg_sq")
        momentum = ("momentum_buffer",) if bool((self.settings["momentum"] != 0).any()) else ()
        return (*momentum, "square_avg") if self.name == "rmsprop" else momentum

    def new_state(self, params: Tensor) -> dict[str, Tensor]:
        """Zeros, which is where all of them begin."""
        return {name: torch.zeros_like(params) for name in self.state_names}

    def of(self, members: Tensor, like: Tensor) -> ChunkRule:
        """The rule for some of the members, its settings ready for tensors like ``like``."""
        chosen = {key: value[members] for key, value in self.settings.items()}
        return ChunkRule(self.name, {key: column_of(value, like) for key, value in chosen.items()})


def column_of(values: Tensor, like: Tensor) -> Column:
    """Values per member, shape (members,), as one float if they agree, else as a column (members, 1) like ``like``."""
    first = values[0] if len(values) else torch.zeros(())
    if bool((values == first).all()):
        return float(first)
    return values.to(device=like.device, dtype=like.dtype)[:, None]


@dataclass(frozen=True)
class ChunkRule:
    """The update of one chunk of members."""

    name: str
    settings: Mapping[str, Column]

    def step(
        self, params: Tensor, gradient: Tensor, state: Mapping[str, Tensor], lr: Column, taken: int
    ) -> None:
        """Update number ``taken`` (counted from 1): parameters and state change in place, the gradient may too."""
        if self.name == "sgd":
            self._sgd(params, self._decayed(params, gradient), state, lr)
        elif self.name == "rmsprop":
            self._rmsprop(params, self._decayed(params, gradient), state, lr)
        else:
            self._adam(params, gradient, state, lr, taken)

    def _decayed(self, params: Tensor, gradient: Tensor) -> Tensor:
        decay = self.settings["weight_decay"]
        if isinstance(decay, Tensor):
            return gradient.addcmul_(params, decay)
        return gradient.add_(params, alpha=decay) if decay else gradient

    def _sgd(self, params: Tensor, gradient: Tensor, state: Mapping[str, Tensor], lr: Column) -> None:
        if "momentum_buffer" in state:
            momentum, nesterov = self.settings["momentum"], self.settings["nesterov"]
            buffer = state["momentum_buffer"].mul_(momentum).add_(gradient)
            if isinstance(nesterov, Tensor):
                gradient = torch.where(nesterov != 0, gradient + buffer * momentum, buffer)
            else:
                gradient = gradient + buffer * momentum if nesterov else buffer
        _descend(params, gradient, lr)

    def _rmsprop(self, params: Tensor, gradient: Tensor, state: Mapping[str, Tensor], lr: Column) -> None:
        alpha, eps = self.settings["alpha"], self.settings["eps"]
        square = state["square_avg"].mul_(alpha)
        _add_product(square, gradient, gradient, 1 - alpha)
        step = gradient.div_(square.sqrt().add_(eps))
        if "momentum_buffer" in state:
            step = state["momentum_buffer"].mul_(self.settings["momentum"]).add_(step)
        _descend(params, step, lr)

    def _adam(
        self, params: Tensor, gradient: Tensor, state: Mapping[str, Tensor], lr: Column, taken: int
    ) -> None:
        beta1, beta2, eps = (self.settings[key] for key in ("beta1", "beta2", "eps"))
        if self.name == "adam":
            gradient = self._decayed(params, gradient)
        else:
            decay = self.settings["weight_decay"]
            if isinstance(decay, Tensor) or decay:
                params.mul_(1 - lr * decay)
        average = state["exp_avg"].lerp_(gradient, _weight(1 - beta1, gradient))
        square = state["exp_avg_sq"].mul_(beta2)
        _add_product(square, gradient, gradient, 1 - beta2)
        size = lr / (1 - beta1**taken)
        root = (1 - beta2**taken) ** 0.5
        denominator = torch.sqrt(square, out=gradient).div_(root).add_(eps)
        if isinstance(size, Tensor):
            params.sub_(average.div(denominator).mul_(size))
        else:
            params.addcdiv_(average, denominator, value=-size)


def _weight(value: Column, like: Tensor) -> Column:
    return value.expand_as(like) if isinstance(value, Tensor) else value


def _add_product(total: Tensor, left: Tensor, right: Tensor, scale: Column) -> None:
    if isinstance(scale, Tensor):
        total.add_((left * right).mul_(scale))
    else:
        total.addcmul_(left, right, value=scale)


def _descend(params: Tensor, step: Tensor, lr: Column) -> None:
    if isinstance(lr, Tensor):
        params.addcmul_(step, lr, value=-1)
    else:
        params.add_(step, alpha=-lr)


def clip_(gradient: Tensor, limit: Tensor) -> None:
    """Scale each member's gradient to a norm of at most its limit, as `torch.nn.utils.clip_grad_norm_` does.

    Args:
        gradient: Shape (members, params); changed in place.
        limit: Shape (members,); infinity where nothing is clipped.
    """
    norms = torch.linalg.vector_norm(gradient, dim=1)
    # An infinite limit over an infinite norm would be NaN; such a member is to diverge by itself.
    factor = torch.where(limit.isinf(), 1.0, (limit / (norms + 1e-6)).clamp(max=1.0))
    gradient.mul_(factor[:, None])


def torch_optimizer(
    name: str, parameters: Iterable[nn.Parameter], lr: float, settings: Mapping[str, float]
) -> torch.optim.Optimizer:
    """The same optimizer from `torch.optim`, for one network.

    >>> rule = {"weight_decay": 0.0, "momentum": 0.9, "nesterov": 1.0}
    >>> type(torch_optimizer("sgd", [nn.Parameter(torch.zeros(1))], 0.1, rule)).__name__
    'SGD'
    """
    decay = settings["weight_decay"]
    if name == "sgd":
        return torch.optim.SGD(
            parameters,
            lr=lr,
            momentum=settings["momentum"],
            nesterov=bool(settings["nesterov"]),
            weight_decay=decay,
        )
    if name == "rmsprop":
        return torch.optim.RMSprop(
            parameters,
            lr=lr,
            alpha=settings["alpha"],
            eps=settings["eps"],
            momentum=settings["momentum"],
            weight_decay=decay,
        )
    betas = (settings["beta1"], settings["beta2"])
    kind = torch.optim.Adam if name == "adam" else torch.optim.AdamW
    return kind(parameters, lr=lr, betas=betas, eps=settings["eps"], weight_decay=decay)


def check_settings(name: str, settings: Mapping[str, Tensor]) -> None:
    """Refuse settings outside of what the rule allows.

    Raises:
        InputError: One is out of range.
    """
    ranges = {
        "weight_decay": (0.0, math.inf),
        "momentum": (0.0, math.inf),
        "beta1": (0.0, 1.0),
        "beta2": (0.0, 1.0),
        "alpha": (0.0, math.inf),
        "eps": (0.0, math.inf),
        "lr": (0.0, math.inf),
    }
    for key, (low, high) in ranges.items():
        if key in settings and not bool(((settings[key] >= low) & (settings[key] < high)).all()):
            bad = settings[key][~((settings[key] >= low) & (settings[key] < high))]
            raise InputError(f"{key} is {float(bad[0])}; it must be at least {low:g} and below {high:g}.")
    if "nesterov" in settings and bool(((settings["nesterov"] != 0) & (settings["momentum"] == 0)).any()):
        raise InputError(
            'optimizer="nesterov" with momentum 0; Nesterov needs a momentum above 0, such as 0.9.'
        )


def rule_name(optimizer: str) -> str:
    """The rule behind a name.

    Raises:
        UnknownNameError: There is none.
    """
    if optimizer not in NAMES:
        raise UnknownNameError("optimizer", str(optimizer), NAMES)
    return NAMES[optimizer]
