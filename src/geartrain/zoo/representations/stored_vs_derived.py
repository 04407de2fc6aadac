r"""Stored or derived: what an edit reveals.

Two networks answer the same questions about facts $p_i, q_i \in \{0, 1\}$: "is $p_i$ so?" and "is $p_i$ or $q_i$
so?".

* Net A *stores* both answers: two tables, an entry for each question.
* Net B *derives* the second one: it stores $p$ and $q$, and an OR gate combines them,
  $p + q - \mathrm{relu}(p + q - 1)$.

As functions they are the same, on every question: no test of inputs and outputs can tell them apart, and they even
have equally many parameters. But change the stored $p_i$ from 0 to 1 where $q_i = 0$. B's answer to "$p_i$ or
$q_i$" changes too, always; A's never does. That is what derivation costs and buys: a longer path (two steps in
place of one, each of which can be broken), and consistency after an edit. Whoever looks at weights or interventions
can see it; whoever looks at behaviour cannot.

**What training sees.** A is a linear model of one-hot questions: its tangent kernel is the identity, its Hessian
$1/(2n)$ times it. Each entry is learnt separately and equally fast; facts know nothing of one another. In B
questions share parts. With the gate's slope $s_i = 1$ for $p_i + q_i \le 1$ and 0 above, the kernel of "$p_i$" and
"$p_i$ or $q_i$" is $s_i$, that of "$p_i$ or $q_i$" with itself $2s_i$: learning one answer moves the other. Where
both $p_i$ and $q_i$ hold the gate is saturated, and B cannot learn from that question at all.

**What to vary.** `facts`, `seed` (which facts hold) and `noise`, by which A's tables are off so that there is a
gradient.

Sources: by design. Compare the "ripple effects" of knowledge editing, Cohen et al. 2023, arXiv 2307.12976.
Ledger: 2.6.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from geartrain.errors import InputError
from geartrain.objective import Objective
from geartrain.records import Measurement
from geartrain.zoo import _matrices
from geartrain.zoo._base import Toy, Truth, trial_result
from geartrain.zoo._losses import half_square

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SAME = "Same input-output map, by construction."


class Lookup(nn.Module):
    """A table: the entry that a one-hot question asks for."""

    def __init__(self, values: np.ndarray) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(values[None]))

    def forward(self, questions: Tensor) -> Tensor:
        """Entries, shape (examples, 1), for questions of shape (examples, entries)."""
        return nn.functional.linear(questions, self.weight)


class Gate(nn.Module):
    """Logical or of two truth values, given their sum."""

    def forward(self, total: Tensor) -> Tensor:
        """0, 1, 1 for 0, 1, 2."""
        return total - torch.relu(total - 1)


class Storing(nn.Module):
    """Net A: one table for either kind of question."""

    def __init__(self, facts: np.ndarray, derived: np.ndarray) -> None:
        super().__init__()
        self.p, self.p_or_q = Lookup(facts), Lookup(derived)

    def forward(self, questions: Tensor) -> Tensor:
        """Answers (examples, 1) to one-hot questions (examples, 2n), those about p first."""
        about_p, about_or = questions.chunk(2, dim=1)
        return self.p(about_p) + self.p_or_q(about_or)


class Deriving(nn.Module):
    """Net B: tables of p and of q, and a gate for the second kind of question."""

    def __init__(self, p: np.ndarray, q: np.ndarray) -> None:
        super().__init__()
        self.p, self.q, self.gate = Lookup(p), Lookup(q), Gate()

    def forward(self, questions: Tensor) -> Tensor:
        """Answers (examples, 1) to one-hot questions (examples, 2n), those about p first."""
        about_p, about_or = questions.chunk(2, dim=1)
        return self.p(about_p) + self.gate(self.p(about_or) + self.q(about_or))


@dataclass(frozen=True)
class StoredVsDerived(Toy):
    """Facts that are stored, and facts that follow.

    Attributes:
        facts: n, number of p's and of q's.
        noise: Spread of what is added to net A's tables for the instruments.
    """

    title: ClassVar[str] = "Stored or derived"
    ledger: ClassVar[tuple[str, ...]] = ("2.6",)

    facts: int = 8
    noise: float = 0.1

    def __post_init__(self) -> None:
        if not 3 <= self.facts <= 50:
            raise InputError(f"facts is {self.facts}; allowed: 3 to 50. Fewer hold no example of every case.")
        if not 0 < self.noise <= 1:
            raise InputError(
                f"noise is {self.noise}; allowed: above 0 up to 1. Exact tables have no gradient to measure."
            )

    # ------------------------------------------------------------------ how it is made

    @cached_property
    def values(self) -> tuple[np.ndarray, np.ndarray]:
        """The facts p and q, shape (facts,): random, but (0, 0), (1, 0) and (1, 1) are the first three."""
        bits = torch.randint(0, 2, (2, self.facts), generator=self.generator()).double().numpy()
        bits[:, :3] = [[0, 1, 1], [0, 0, 1]]
        return bits[0], bits[1]

    @property
    def answers(self) -> tuple[np.ndarray, np.ndarray]:
        """Right answers to "p?" and to "p or q?"."""
        p, q = self.values
        return p, np.maximum(p, q)

    @cached_property
    def tables(self) -> np.ndarray:
        """Net A's two tables, a little off, flat."""
        source = torch.Generator().manual_seed(self.seed + 11)
        off = torch.randn(2 * self.facts, generator=source, dtype=torch.float64).numpy()
        return np.concatenate(self.answers) + self.noise * off

    def net_a(self) -> Storing:
        """Net A with exact tables."""
        return Storing(*self.answers)

    def net_b(self) -> Deriving:
        """Net B with exact tables."""
        return Deriving(*self.values)

    def make_objective(self) -> Objective:
        """½ mean (f - y)² of net A with noisy tables, over all questions, each asked once."""
        questions = torch.eye(2 * self.facts, dtype=torch.float64)
        right = torch.from_numpy(np.concatenate(self.answers)[:, None])
        return Objective(Storing(*np.split(self.tables, 2)), half_square, (questions, right))

    # ------------------------------------------------------------------ what is known

    @cached_property
    def slopes(self) -> np.ndarray:
        """Slope of the gate at each pair of facts: 1, or 0 where both hold (relu has slope 0 at its kink)."""
        p, q = self.values
        return (p + q <= 1).astype(float)

    @cached_property
    def jacobian(self) -> np.ndarray:
        """Derivatives of B's answers in p and q, shape (2n, 2n), by the chain rule."""
        gate = np.diag(self.slopes)
        return np.block([[np.eye(self.facts), np.zeros_like(gate)], [gate, gate]])

    def truths(self) -> dict[str, Truth]:
        """Edits, paths, sameness of the functions, and both nets' derivatives."""
        return self._truths_of_a() | self._truths_of_both() | self._truths_of_b()

    def _truths_of_a(self) -> dict[str, Truth]:
        """A linear model of one-hot questions with noisy tables."""
        n, y = self.facts, np.concatenate(self.answers)
        eye, gap = np.eye(2 * n), self.tables - y
        hessian, layers, source = eye / (2 * n), [n, n], "f = Wx with one-hot x: the Hessian is 1/(2n)."
        share = float(max(y.mean(), 1 - y.mean()))
        return {
            **_matrices.curvature_truths(
                hessian, gap / (2 * n), loss=0.5 * float((gap**2).mean()), layers=layers, source=source
            ),
            **_matrices.example_truths(gap[:, None] * eye, hessian, layers=layers, source=source),
            **_matrices.kernel_truths(eye[:, None], y[:, None], source=source),
            **_matrices.linear_pair_truths(self.tables, y, _a),
            "loss_slice": _matrices.parabola(
                0.5 * float((gap**2).mean()), gap / (2 * n), hessian, np.ones(2 * n) / math.sqrt(2 * n)
            ),
            "example_losses": Truth(0.5 * gap**2, source="Definition.", strict=True),
            "weight_norm": Truth(
                np.array([np.linalg.norm(t) for t in np.split(self.tables, 2)]), source="Definition."
            ),
            "constant_loss": Truth(0.5 * float(y.var()), 1e-5, source="Variance of the answers."),
            "label_disagreement_floor": Truth(0.0, source="No question is asked twice."),
            "label_balance": Truth(share, strict=True, source="Share of the more frequent answer."),
            "missing_biases": Truth(math.nan, source="A table is no linear layer."),
            "lazy_index": Truth(
                math.nan, source="Exact tables have loss 0: nothing relative to it.", other=_a
            ),
            "input_affinity": Truth(0.0, 1e-7, source="A is linear in the questions."),
            "prunability": Truth(
                float((y == 0).mean()),
                subject=_objective_a,
                options={"rise": 1e-9},
                source="Exactly the entries that are 0 can go.",
                strict=True,
            ),
        }

    def _truths_of_both(self) -> dict[str, Truth]:
        """What differs between the nets, and what does not."""
        kernel = self.jacobian @ self.jacobian.T
        drift = float(np.linalg.norm(np.eye(len(kernel)) - kernel) / np.linalg.norm(kernel))
        design = "A reads its second table, B the edited entry."
        steps = "By design: a look-up, and in B a gate behind it."
        return {
            "propagation": Truth(np.array([0.0, 1.0]), 0.0, source=design, trial=self._edit),
            "path_lengths": Truth(np.array([[1.0, 1.0], [1.0, 2.0]]), 0.0, source=steps, trial=self._steps),
            "stored_numbers": Truth(np.full(2, 2.0 * self.facts), 0.0, source=design, trial=self._stored),
            "function_distance": Truth(0.0, 1e-9, source=_SAME, subject=_objective_a, other=_objective_b),
            "prediction_disagreement": Truth(
                0.0, 1e-9, source=_SAME, subject=_objective_a, other=_objective_b
            ),
            "ntk_drift.derived": Truth(
                drift, subject=_objective_a, other=_objective_b, source="‖K_A - K_B‖/‖K_B‖ with K_A = 1."
            ),
        }

    def _truths_of_b(self) -> dict[str, Truth]:
        """Net B: a network with a gate."""
        p, q = self.values
        chain = "Chain rule through the gate."
        kernel = _matrices.kernel_truths(
            self.jacobian[:, None], np.concatenate(self.answers)[:, None], source=chain
        )
        hessian = self.jacobian.T @ self.jacobian / len(self.jacobian)  # the loss is 0
        curved = _matrices.curvature_truths(hessian, layers=[self.facts, self.facts], source=chain)
        norms = Truth(np.array([np.linalg.norm(p), np.linalg.norm(q)]), source="Definition.")
        found = kernel | curved | {"weight_norm": norms}
        return {_derived(name): _on_b(truth, name) for name, truth in found.items()}

    # ------------------------------------------------------------------ experiments

    def question(self, kind: int, fact: int) -> Tensor:
        """The one-hot question "p?" (0) or "p or q?" (1) about a fact."""
        asked = torch.zeros(1, 2 * self.facts, dtype=torch.float64)
        asked[0, kind * self.facts + fact] = 1
        return asked

    @torch.no_grad()
    def _edit(self, generator: torch.Generator) -> Measurement:
        """Share of the facts with p = q = 0 whose derived answer changes in A and in B when the stored p becomes 1."""
        p, q = self.values
        editable, changed = np.flatnonzero((p == 0) & (q == 0)), np.zeros(2)
        for fact in editable:
            for place, net in enumerate((self.net_a(), self.net_b())):
                before = net(self.question(1, int(fact)))
                net.p.weight[0, fact] = 1.0
                changed[place] += float((net(self.question(1, int(fact))) - before).abs() > 0.5)
        return trial_result("propagation", changed / len(editable))

    @torch.no_grad()
    def _steps(self, generator: torch.Generator) -> Measurement:
        """Steps one after another without which a question is answered wrongly; rows p and p or q, columns A and B.

        A step is a kind of module whose outputs are set to 0; tables asked at once are one step. The fact is the one
        with p = 1 and q = 0, so that every right answer is 1.
        """
        lengths = np.zeros((2, 2))
        for place, make in enumerate((self.net_a, self.net_b)):
            for kind in (0, 1):
                lengths[kind, place] = len(
                    {type(m) for m in make().children() if self._needs(make(), type(m), kind)}
                )
        return trial_result("path_lengths", lengths)

    def _needs(self, net: nn.Module, step: type[nn.Module], kind: int) -> bool:
        """Whether an answer breaks when all modules of a kind are silenced."""
        for module in net.children():
            if isinstance(module, step):
                module.register_forward_hook(_silence)
        return bool(net(self.question(kind, 1)).abs().max() < 0.5)

    def _stored(self, generator: torch.Generator) -> Measurement:
        nets = self.net_a(), self.net_b()
        return trial_result(
            "stored_numbers", [float(sum(p.numel() for p in net.parameters())) for net in nets]
        )

    # ------------------------------------------------------------------ what it looks like

    def draw(self, figure: Figure) -> None:
        """Tangent kernels of both nets: which questions are tied to which."""
        kernels = np.eye(2 * self.facts), self.jacobian @ self.jacobian.T
        names = "A stores: every answer by itself", "B derives: answers hang together"
        for axes, kernel, name in zip(figure.subplots(1, 2), kernels, names, strict=True):
            axes.imshow(kernel, vmin=0, vmax=2, cmap="viridis")
            axes.axhline(self.facts - 0.5, color="w", lw=0.5)
            axes.axvline(self.facts - 0.5, color="w", lw=0.5)
            axes.set(title=name, xlabel="question: p | p or q", ylabel="question: p or q | p")


def _silence(module: nn.Module, inputs: object, output: Tensor) -> Tensor:
    return torch.zeros_like(output)


def _derived(name: str) -> str:
    """Name of a truth of net B."""
    head, dot, tail = name.partition(".")
    return f"{head}.derived{'_' if dot else ''}{tail}"


def _on_b(truth: Truth, name: str) -> Truth:
    return replace(truth, subject=_objective_b, instrument=name.partition(".")[0])


def _a(toy: StoredVsDerived) -> nn.Module:
    return toy.net_a()


def _objective_a(toy: StoredVsDerived) -> Objective:
    return toy.objective.of(toy.net_a())


def _objective_b(toy: StoredVsDerived) -> Objective:
    return toy.objective.of(toy.net_b())


TOY = StoredVsDerived
