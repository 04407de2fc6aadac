"""Networks that learn a table of two arguments, many at once, with the gradient by hand.

Two embeddings are summed, passed through ReLU or a square and read out linearly, without biases: the architecture of
`geartrain.zoo.functions.modular_addition`. All members of a block are one batched computation in full batch with
AdamW; a member leaves once it has generalised. Gradients by hand, because the numerically safe cross-entropy of
Prieto et al.'s "softmax collapse" is a statement about the gradient, not about the loss: in single precision p - 1 is
exactly 0 once the right logit leads by 17, while the sum of the other probabilities is not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

RIGHT = 0.99
"""Accuracy that counts as learned."""


@dataclass(frozen=True)
class Arm:
    """How a block of networks is trained.

    Attributes:
        p: Modulus, a prime.
        hidden: Units.
        share: Of the pairs that are trained on.
        table: ``"sum"``, ``"product"``, ``"quotient"`` (the latter two for b other than 0), or ``"random"``.
        loss: ``"cross-entropy"`` or ``"squared"`` (against one-hot targets, summed over classes).
        act: ``"relu"`` or ``"square"``.
        decay: Decoupled weight decay.
        lr: Step size.
        steps: Budget.
        horizon: Members that have generalised leave from this step on.
        dtype: ``"float32"`` or ``"float64"``.
        eps: Of AdamW.
        safe: The right class's gradient is minus the sum of the other probabilities.
        penalty: Factor of the mean square of the logits, added to the loss.
        temperature: Logits are divided by it before the loss.
        start: Standard deviation of the embeddings at the start; that of the read-out is the inverse root of `hidden`.
    """

    p: int
    hidden: int
    share: float = 0.5
    table: str = "sum"
    loss: str = "cross-entropy"
    act: str = "relu"
    decay: float = 0.0
    lr: float = 1e-2
    steps: int = 8000
    horizon: int = 0
    dtype: str = "float32"
    eps: float = 1e-8
    safe: bool = False
    penalty: float = 0.0
    temperature: float = 1.0
    start: float = 0.5


@dataclass
class Tables:
    """What the members are asked.

    Attributes:
        labels: The whole table, shape (members, p²).
        train: Pairs that are trained on, as numbers a p + b, shape (members, n).
        test: Those kept back, likewise.
    """

    labels: Tensor
    train: Tensor
    test: Tensor

    @staticmethod
    def of(arm: Arm, seeds: Sequence[int]) -> Tables:
        """A split for each seed."""
        labels, train, test = [], [], []
        for seed in seeds:
            source = np.random.default_rng([seed, 1])
            label = table(arm.table, arm.p, source)
            pairs = source.permutation(np.flatnonzero(label >= 0))
            count = round(arm.share * len(pairs))
            labels.append(label)
            train.append(np.sort(pairs[:count]))
            test.append(np.sort(pairs[count:]))
        return Tables(*(torch.from_numpy(np.stack(v)) for v in (labels, train, test)))

    def of_members(self, keep: Tensor) -> Tables:
        """Of some of the members."""
        return Tables(self.labels[keep], self.train[keep], self.test[keep])


def table(kind: str, p: int, source: np.random.Generator) -> np.ndarray:
    """Answers for all pairs, shape (p²,); -1 where there is none.

    >>> table("quotient", 3, np.random.default_rng(0)).reshape(3, 3).tolist()
    [[-1, 0, 0], [-1, 1, 2], [-1, 2, 1]]
    """
    a, b = np.indices((p, p))
    if kind == "sum":
        found = (a + b) % p
    elif kind == "random":
        found = source.integers(p, size=(p, p))
    else:
        inverse = np.array([0, *(pow(int(i), -1, p) for i in range(1, p))])
        found = np.where(b == 0, -1, (a * (inverse[b] if kind == "quotient" else b)) % p)
    return found.ravel().astype(np.int64)


class Networks:
    """Weights of the members as one matrix: first embedding, second, read-out.

    Attributes:
        flat: Shape (members, 3 p hidden).
    """

    def __init__(self, arm: Arm, flat: Tensor) -> None:
        self.arm, self.flat = arm, flat

    @staticmethod
    def of(arm: Arm, seeds: Sequence[int]) -> Networks:
        """Each from its seed."""
        shape, size = (3, arm.p, arm.hidden), torch.tensor([arm.start, arm.start, arm.hidden**-0.5])
        rows = [
            torch.randn(shape, generator=torch.Generator().manual_seed(int(s)), dtype=torch.float64)
            for s in seeds
        ]
        start = torch.stack(rows) * size[:, None, None]
        return Networks(arm, start.flatten(1).to(getattr(torch, arm.dtype)))

    @property
    def parts(self) -> tuple[Tensor, Tensor, Tensor]:
        """The three matrices, each (members, p, hidden)."""
        first, second, out = self.flat.view(len(self.flat), 3, self.arm.p, self.arm.hidden).unbind(1)
        return first, second, out

    def places(self, pairs: Tensor) -> tuple[Tensor, Tensor]:
        """Rows of the two embeddings that the pairs need, over all members."""
        p = self.arm.p
        base = torch.arange(len(pairs))[:, None] * p
        return (base + pairs // p).flatten(), (base + pairs % p).flatten()

    def sums(self, rows: tuple[Tensor, Tensor]) -> Tensor:
        """What goes into the activation, shape (members, pairs, hidden)."""
        first, second, _ = (part.reshape(-1, self.arm.hidden) for part in self.parts)
        found = first.index_select(0, rows[0])
        found += second.index_select(0, rows[1])
        return found.view(len(self.flat), -1, self.arm.hidden)

    def active(self, sums: Tensor) -> Tensor:
        """After the activation."""
        return sums.clamp(min=0) if self.arm.act == "relu" else sums * sums

    def logits(self, pairs: Tensor) -> Tensor:
        """Shape (members, pairs, p)."""
        return torch.bmm(self.active(self.sums(self.places(pairs))), self.parts[2].transpose(1, 2))

    def all_logits(self) -> Tensor:
        """Of all pairs, shape (members, p², p)."""
        first, second, out = self.parts
        sums = (first[:, :, None] + second[:, None]).flatten(1, 2)
        return torch.bmm(self.active(sums), out.transpose(1, 2))

    def gradient(self, rows: tuple[Tensor, Tensor], labels: Tensor) -> Tensor:
        """Of the mean loss over the pairs, for each member; shaped as `flat`."""
        arm, out = self.arm, self.parts[2]
        sums = self.sums(rows)
        active = self.active(sums)
        pull = pull_on_logits(arm, torch.bmm(active, out.transpose(1, 2)), labels)
        found = torch.zeros(len(self.flat), 3, arm.p, arm.hidden, dtype=self.flat.dtype)
        torch.bmm(pull.transpose(1, 2), active, out=found[:, 2]) if len(self.flat) == 1 else found[
            :, 2
        ].copy_(torch.bmm(pull.transpose(1, 2), active))
        back = torch.bmm(pull, out)
        if arm.act == "relu":
            back = torch.ops.aten.threshold_backward(back, sums, 0)
        else:
            back.mul_(sums).mul_(2)
        back = back.view(-1, arm.hidden)
        for slot in (0, 1):
            total = torch.zeros(len(self.flat) * arm.p, arm.hidden, dtype=back.dtype)
            found[:, slot] = total.index_add_(0, rows[slot], back).view(-1, arm.p, arm.hidden)
        return found.flatten(1)


def pull_on_logits(arm: Arm, logits: Tensor, labels: Tensor) -> Tensor:
    """Derivative of the mean loss by the logits, (members, pairs, p)."""
    place = labels[..., None]
    if arm.loss == "squared":
        pull = 2 * logits
        pull.scatter_add_(2, place, torch.full_like(place, -2, dtype=logits.dtype))
    else:
        pull = torch.softmax(logits / arm.temperature if arm.temperature != 1 else logits, 2)
        if arm.safe:
            pull.scatter_(2, place, 0.0)
            pull.scatter_(2, place, -pull.sum(2, keepdim=True))
        else:
            pull.scatter_add_(2, place, torch.full_like(place, -1, dtype=logits.dtype))
        pull /= arm.temperature
    if arm.penalty:
        pull += 2 * arm.penalty / arm.p * logits
    return pull.div_(labels.shape[1])


class AdamW:
    """`torch.optim.AdamW` for the rows of a matrix, from which rows can leave."""

    def __init__(self, flat: Tensor, arm: Arm, betas: tuple[float, float] = (0.9, 0.98)) -> None:
        self.arm, self.betas, self.steps = arm, betas, 0
        self.mean, self.square = torch.zeros_like(flat), torch.zeros_like(flat)

    def step(self, flat: Tensor, gradient: Tensor) -> None:
        """Move the weights."""
        first, second = self.betas
        self.steps += 1
        self.mean.mul_(first).add_(gradient, alpha=1 - first)
        self.square.mul_(second).addcmul_(gradient, gradient, value=1 - second)
        size = self.square.sqrt().div_((1 - second**self.steps) ** 0.5).add_(self.arm.eps)
        if self.arm.decay:
            flat.mul_(1 - self.arm.lr * self.arm.decay)
        flat.addcdiv_(self.mean, size, value=-self.arm.lr / (1 - first**self.steps))

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows only."""
        self.mean, self.square = self.mean[rows], self.square[rows]


def evaluations(steps: int) -> list[int]:
    """Steps after which everybody is evaluated: every one up to 100, every 5 up to 300, every 20 beyond.

    >>> evaluations(340)[-4:]
    [295, 300, 320, 340]
    """
    return sorted(
        {*range(min(steps, 100) + 1), *range(100, min(steps, 300) + 1, 5), *range(300, steps + 1, 20), steps}
    )


def checkpoints(steps: int) -> list[int]:
    """About 45 of the evaluations, evenly on a logarithmic axis: those whose curves are kept."""
    at, all_ = np.geomspace(1, steps, 45), np.array(evaluations(steps))
    return sorted({0, *(int(all_[np.abs(all_ - x).argmin()]) for x in at)})


def delayed(train: np.ndarray, test: np.ndarray, ratio: float = 3.0) -> np.ndarray:
    """Whether each run grokked: both accuracies reached 99 %, the second at `ratio` times the first's step or later.

    Args:
        train: First step with that accuracy on the training pairs; -1 for never.
        test: On the others, likewise.
        ratio: Least delay.

    >>> delayed(np.array([10, 10, 10]), np.array([30, 29, -1])).tolist()
    [True, False, False]
    """
    return (train >= 0) & (test >= 0) & (test >= ratio * np.maximum(train, 1))


def wave(logits: Tensor, p: int) -> Tensor:
    """The part of centred logits that depends on a + b - c alone, by distance: shape (members, p), the right one first.

    The mean over all pairs, so that what was learned by heart for single pairs averages out but for its share.
    """
    a, b = torch.arange(p)[:, None], torch.arange(p)
    place = ((a + b).flatten()[:, None] - torch.arange(p)) % p
    turned = logits.gather(2, place.expand_as(logits)).mean(1)
    return turned - turned.mean(1, keepdim=True)


def wave_share(logits: Tensor, p: int) -> Tensor:
    """Share of the centred logits' mean square in that part, for each member."""
    centred = logits.var(2, correction=0).mean(1)
    return wave(logits, p).square().mean(1) / centred.clamp(min=1e-30)


def margins(logits: Tensor, labels: Tensor) -> Tensor:
    """Right logit less the best wrong one, shape (members, pairs)."""
    right = logits.gather(2, labels[..., None])
    return (right - logits.scatter(2, labels[..., None], -torch.inf).amax(2, keepdim=True))[..., 0]


def train(arm: Arm, seeds: Sequence[int]) -> dict[str, np.ndarray]:
    """Train one network for each seed, and watch.

    Returns:
        Arrays over seeds: ``train`` and ``test`` (first steps with 99 %; -1: never), ``taken`` (steps); ``early`` and
        ``late`` (mean margin of the training pairs per unit weight norm to the power of the network's degree, when they
        were first learned, and at the end), ``norm``, ``wave_margin`` and ``rest_margin`` of the training pairs at the
        end; curves over `checkpoints`, held from where a member left: ``train_curve``, ``test_curve``, ``wave_curve``.
    """
    kept = checkpoints(arm.steps)
    names = ("train", "test", "taken")
    found: dict[str, np.ndarray] = {name: np.full(len(seeds), -1) for name in names}
    found |= {n: np.zeros(len(seeds)) for n in ("early", "late", "norm", "wave_margin", "rest_margin")}
    found |= {f"{n}_curve": np.zeros((len(seeds), len(kept)), np.float32) for n in ("train", "test", "wave")}
    tables, nets, alive = Tables.of(arm, seeds), Networks.of(arm, seeds), np.arange(len(seeds))
    optimiser, step = AdamW(nets.flat, arm), 0
    rows, labels = nets.places(tables.train), tables.labels.gather(1, tables.train)
    for until in evaluations(arm.steps):
        while step < until:
            optimiser.step(nets.flat, nets.gradient(rows, labels))
            step += 1
        logits = nets.all_logits()
        right = (logits.argmax(2) == tables.labels).double()
        shares = {n: right.gather(1, getattr(tables, n)).mean(1).numpy() for n in ("train", "test")}
        for name, share in shares.items():
            now = (share >= RIGHT) & (found[name][alive] < 0)
            found[name][alive[now]] = step
            if name == "train" and now.any():
                found["early"][alive[now]] = _efficiency(nets, logits, tables)[now]
        later = [i for i, at in enumerate(kept) if at >= step]
        if later:  # a member that leaves keeps its last values
            shares["wave"] = wave_share(logits, arm.p).double().numpy()
            for name, share in shares.items():
                found[f"{name}_curve"][alive[:, None], later] = share[:, None]
        done = (found["test"][alive] >= 0) & (step >= arm.horizon) | (step == arm.steps)
        if done.any():
            _farewell(found, alive, done, step, nets, logits, tables)
            stay = torch.from_numpy(~done)
            alive, tables = alive[~done], tables.of_members(stay)
            if not len(alive):
                break
            nets.flat = nets.flat[stay]
            optimiser.keep(stay)
            rows, labels = nets.places(tables.train), tables.labels.gather(1, tables.train)
    return found


def _efficiency(nets: Networks, logits: Tensor, tables: Tables) -> np.ndarray:
    """Mean margin of the training pairs over the weight norm to the power of the network's degree."""
    own = logits.gather(1, tables.train[..., None].expand(-1, -1, logits.shape[2]))
    margin = margins(own, tables.labels.gather(1, tables.train)).mean(1)
    return (margin / nets.flat.norm(dim=1) ** (2 if nets.arm.act == "relu" else 3)).double().numpy()


def _farewell(
    found: dict[str, np.ndarray],
    alive: np.ndarray,
    done: np.ndarray,
    step: int,
    nets: Networks,
    logits: Tensor,
    tables: Tables,
) -> None:
    """Write down what those who leave have become."""
    p, who = nets.arm.p, alive[done]
    found["taken"][who] = step
    found["late"][who] = _efficiency(nets, logits, tables)[done]
    found["norm"][who] = nets.flat.norm(dim=1).double().numpy()[done]
    part = wave(logits, p)
    a, b = torch.arange(p)[:, None], torch.arange(p)
    turn = ((a + b).flatten()[:, None] - torch.arange(p)) % p
    whole = part[:, turn]
    for name, values in (("wave_margin", whole), ("rest_margin", logits - whole)):
        own = values.gather(1, tables.train[..., None].expand(-1, -1, p))
        margin = margins(own, tables.labels.gather(1, tables.train)).mean(1)
        found[name][who] = margin.double().numpy()[done]
