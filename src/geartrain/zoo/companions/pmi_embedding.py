r"""Word embeddings as a factorised table: what skip-gram with negative samples learns.

A corpus is, for skip-gram, a table $p(w, c)$: how often the word $w$ stands beside the context $c$. Each word has a
vector $u_w$, each context a vector $v_c$. For every pair that occurs, $k$ contexts are drawn blindly from $p(c)$, and
$\sigma(u_w\cdot v_c)$ has to tell the real pairs from the blind ones. In expectation the loss is

$$L = \sum_{w,c} \Big[\, p(w,c)\, \ln(1 + e^{-x_{wc}}) + k\, p(w)\, p(c)\, \ln(1 + e^{x_{wc}}) \Big],
\qquad x_{wc} = u_w\cdot v_c .$$

**The optimum, entry by entry.** Every $x_{wc}$ stands in two terms only. Its derivative
$r_{wc} = (p(w,c) + k\,p(w)p(c))\,\sigma(x_{wc}) - p(w,c)$ is zero at

$$x_{wc} = \ln\frac{p(w,c)}{p(w)\,p(c)} - \ln k = \mathrm{PMI}(w, c) - \ln k .$$

If the vectors have room for this matrix, the embedding *is* its factorisation: geometry is nothing but co-occurrence.

**How much room.** Here words have hidden meanings $z_w$ in a few dimensions, and the table is
$p(w,c) = a_w\, e^{z_w\cdot z'_c}\, b_c$, with $a$ and $b$ such that words and contexts are as frequent as Zipf's law
says. Then $\mathrm{PMI} - \ln k$ is $z_w\cdot z'_c$ plus a term of the word alone plus one of the context alone: its
rank is the number of meanings plus two, and vectors of that dimension suffice. The two extra ones hold frequencies.

**The landscape.** $UV^\top$ is the same for $UR$ and $VR^{-\top}$: of $2nd$ parameters the function sees
$2nd - d^2$. With $R = [r_{wc}]$ the gradient is $RV$ for $U$ and $R^\top U$ for $V$. The Hessian is
$J^\top D J$ with the curvatures $D = (p(w,c) + k\,p(w)p(c))\,\sigma(1-\sigma)$, plus $R$ in the block that mixes
$u_w$ with $v_c$.

**The instruments** look at vectors that are shrunk: `share` of the optimal matrix has been learnt. The examples are
the pairs $(w, c)$, each weighted by how often it occurs.

**What to vary.** `meanings` and `strength` of the meanings, `negatives` ($k$), `zipf` (exponent of the frequencies).

Sources: Mikolov et al. 2013, arXiv 1310.4546; Levy, Goldberg 2014 (NeurIPS 27, eq. 6 to 11).
Ledger: 4.1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from scipy.optimize import minimize
from scipy.special import expit
from torch import Tensor, nn

from geartrain.errors import InputError
from geartrain.objective import Objective
from geartrain.records import Measurement
from geartrain.run import Run
from geartrain.zoo import _matrices
from geartrain.zoo._base import Toy, Truth, trial_result
from geartrain.zoo._descent import STEPS, Path, motion_truths

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_OPTIMUM = "Levy, Goldberg 2014: set the derivative in each entry to zero."
_CHAIN = "x = u·v: chain rule by hand."
_CORPUS = 4_000_000
"""Pairs in the corpus of the trial."""


class Embedding(nn.Module):
    """Vectors of words and of contexts; says u_w · v_c for pairs of numbers."""

    def __init__(self, words: np.ndarray, contexts: np.ndarray) -> None:
        super().__init__()
        self.words, self.contexts = nn.Parameter(torch.tensor(words)), nn.Parameter(torch.tensor(contexts))

    def forward(self, pairs: Tensor) -> Tensor:
        """x, shape (pairs, 1), of pairs (pairs, 2)."""
        return (self.words[pairs[:, 0]] * self.contexts[pairs[:, 1]]).sum(1, keepdim=True)


def told_apart(outputs: Tensor, weights: Tensor) -> Tensor:
    """Mean of: weight of the real pair × ln(1 + e⁻ˣ) + weight of the blind one × ln(1 + eˣ)."""
    real, blind = weights[:, :1], weights[:, 1:]
    return (real * nn.functional.softplus(-outputs) + blind * nn.functional.softplus(outputs)).mean()


@dataclass(frozen=True)
class PmiEmbedding(Toy):
    """Skip-gram with negative samples on a table of co-occurrences that is known.

    Attributes:
        size: Words, and contexts, n.
        meanings: Dimensions of the hidden meanings; the vectors have two more.
        strength: Spread of the meanings' inner products.
        negatives: k, blind pairs per real one.
        zipf: Frequencies fall as rank^(-zipf).
        share: x is this share of the optimum.
    """

    title: ClassVar[str] = "Embedding of co-occurrences"
    ledger: ClassVar[tuple[str, ...]] = ("4.1",)

    size: int = 7
    meanings: int = 1
    strength: float = 1.0
    negatives: int = 5
    zipf: float = 0.5
    share: float = 0.4

    def __post_init__(self) -> None:
        if not 4 <= self.size <= 10 or not 1 <= self.meanings <= self.size - 3:
            raise InputError(
                f"size is {self.size}, meanings {self.meanings}; allowed: 4 to 10, and 1 to size - 3."
            )
        if not 0.1 <= self.strength <= 2 or not 0 <= self.zipf <= 1.5:
            raise InputError(
                f"strength is {self.strength}, zipf {self.zipf}; allowed: 0.1 to 2, and 0 to 1.5."
            )
        if not 1 <= self.negatives <= 20 or not 0 < self.share <= 0.9:
            raise InputError(
                f"negatives is {self.negatives}, share {self.share}; allowed: 1 to 20, and above 0 up to 0.9."
            )

    # ------------------------------------------------------------------ how it is made

    @cached_property
    def table(self) -> np.ndarray:
        """p(w, c), shape (size, size): e^(z·z') scaled to the frequencies (Sinkhorn), which converges geometrically."""
        source = self.generator()
        draws = torch.randn(2, self.size, self.meanings, generator=source, dtype=torch.float64).numpy()
        # No longer than this, so that every pair occurs now and then.
        longest = math.sqrt(2 * math.sqrt(self.meanings))
        z, other = draws / np.maximum(1, np.linalg.norm(draws, axis=2, keepdims=True) / longest)
        table = np.exp(self.strength / math.sqrt(self.meanings) * z @ other.T)
        for _ in range(2000):
            table *= (self.frequencies / table.sum(1))[:, None]
            table *= self.frequencies / table.sum(0)
            if np.abs(table.sum(1) / self.frequencies - 1).max() < 1e-14:
                break
        return table / table.sum()

    @property
    def frequencies(self) -> np.ndarray:
        """Of the words, and of the contexts: Zipf's law."""
        weights = np.arange(1.0, self.size + 1) ** -self.zipf
        return weights / weights.sum()

    @property
    def blind(self) -> np.ndarray:
        """What a blind pair weighs: k p(w) p(c)."""
        return self.negatives * np.outer(self.table.sum(1), self.table.sum(0))

    @property
    def optimum(self) -> np.ndarray:
        """PMI - ln k, shape (size, size)."""
        return np.log(self.table / self.blind)

    @property
    def dimension(self) -> int:
        """Of the vectors: d."""
        return self.meanings + 2

    def vectors(self, share: float) -> np.ndarray:
        """Both tables of vectors one above the other, shape (2·size, d), with U Vᵀ = share × optimum."""
        left, strengths, right = np.linalg.svd(self.optimum)
        root = np.sqrt(share * strengths[: self.dimension])
        return np.concatenate([left[:, : self.dimension] * root, right[: self.dimension].T * root])

    @cached_property
    def data(self) -> tuple[Tensor, Tensor]:
        """All pairs (n², 2), and the weights of each as a real and as a blind one, n² times their probability."""
        w, c = np.divmod(np.arange(self.size**2), self.size)
        weights = self.size**2 * np.stack([self.table.ravel(), self.blind.ravel()], axis=1)
        return torch.from_numpy(np.stack([w, c], axis=1)), torch.from_numpy(weights)

    def model(self, share: float) -> Embedding:
        """The embedding that has learnt that share."""
        return Embedding(*np.split(self.vectors(share), 2))

    def make_objective(self) -> Objective:
        """L at the share."""
        return Objective(self.model(self.share), told_apart, self.data)

    def make_run(self) -> Run:
        """Full-batch gradient descent; an epoch is a step."""
        model = self.model(self.share)
        optimizer = torch.optim.SGD(model.parameters(), lr=self.rate)
        return Run(
            model, told_apart, optimizer, self.data, epochs=100, batch_size=self.size**2, shuffle=False
        )

    # ------------------------------------------------------------------ what is known

    def loss_at(self, x: np.ndarray) -> float:
        """L of a matrix of inner products."""
        return float((self.table * np.logaddexp(0, -x) + self.blind * np.logaddexp(0, x)).sum())

    def slope_at(self, x: np.ndarray) -> np.ndarray:
        """The derivatives r of L in the entries of x."""
        return (self.table + self.blind) * expit(x) - self.table

    def gradient_at(self, vectors: np.ndarray) -> tuple[float, np.ndarray]:
        """L and its gradient in the flat vectors."""
        u, v = np.split(vectors.reshape(2 * self.size, -1), 2)
        slope = self.slope_at(u @ v.T)
        return self.loss_at(u @ v.T), np.concatenate([slope @ v, slope.T @ u]).ravel()

    def jacobian(self, vectors: np.ndarray) -> np.ndarray:
        """Derivatives of all x in the flat vectors, shape (size², 2·size·d)."""
        u, v = np.split(vectors.reshape(2 * self.size, -1), 2)
        one = np.eye(self.size)
        by_word = np.einsum("wa,cd->wcad", one, v)
        by_context = np.einsum("ca,wd->wcad", one, u)
        return np.concatenate([by_word, by_context], axis=2).reshape(self.size**2, -1)

    def hessian_at(self, vectors: np.ndarray) -> np.ndarray:
        """JᵀDJ, and r where u_w meets v_c."""
        u, v = np.split(vectors.reshape(2 * self.size, -1), 2)
        x, jacobian, n = u @ v.T, self.jacobian(vectors), self.size
        curved = (self.table + self.blind) * expit(x) * expit(-x)
        mixed = np.zeros((2 * n, 2 * n))
        mixed[:n, n:] = self.slope_at(x)
        across = np.kron(mixed + mixed.T, np.eye(self.dimension))
        return jacobian.T @ (curved.ravel()[:, None] * jacobian) + across

    @cached_property
    def hessian(self) -> np.ndarray:
        """Where the instruments look."""
        return self.hessian_at(self.vectors(self.share))

    @cached_property
    def rate(self) -> float:
        """Learning rate of the run: a fifth of the inverse of the largest curvature."""
        return 0.2 / float(np.linalg.eigvalsh(self.hessian)[-1])

    def truths(self) -> dict[str, Truth]:
        """The optimum and its rank; the embedding on the way there."""
        x, jacobian = self.share * self.optimum, self.jacobian(self.vectors(self.share))
        sizes = [jacobian.shape[1]]
        gradient = self.gradient_at(self.vectors(self.share))[1]
        rows = self.size**2 * self.slope_at(x).ravel()[:, None] * jacobian
        real, blind = (w.numpy() for w in self.data[1].T)
        losses = real * np.logaddexp(0, -x.ravel()) + blind * np.logaddexp(0, x.ravel())
        optimal = partial(Truth, source=_OPTIMUM)
        rank = float(self.dimension)
        return {
            "pmi": optimal(self.optimum, 1e-5, trial=self._train),
            "pmi_of_a_corpus": optimal(
                self.optimum, 1e-4, "A corpus of four million pairs.", trial=self._count
            ),
            "rank": Truth(
                rank, 0.0, source="Meanings, and a term each of word and context.", trial=self._rank
            ),
            "least_loss": optimal(self.loss_at(self.optimum), 1e-9, trial=self._least),
            **_matrices.curvature_truths(self.hessian, gradient, layers=sizes, source=_CHAIN),
            **_matrices.example_truths(rows, self.hessian, layers=sizes, source=_CHAIN),
            **_matrices.kernel_truths(jacobian[:, None], source=_CHAIN),
            **self._pair_truths(),
            **motion_truths(self._path(), self.size**2),
            "jacobian_rank": Truth(
                2 * self.size * rank - rank**2, 0.0, source="U → UR, V → VR⁻ᵀ changes nothing."
            ),
            "example_losses": Truth(losses, source="Definition.", strict=True),
            "weight_norm": Truth(np.array([np.linalg.norm(self.vectors(self.share))]), source="Definition."),
            "weight_rank": Truth(
                self._effective_ranks(), source="Both have the optimum's singular values, rooted."
            ),
            "loss_slice": self._slice(),
        }

    def _effective_ranks(self) -> np.ndarray:
        """Exponential of the entropy of √s over its sum, for words and contexts."""
        root = np.sqrt(np.linalg.svd(self.optimum, compute_uv=False)[: self.dimension])
        shares = root / root.sum()
        return np.full(2, math.exp(-(shares * np.log(shares)).sum()))

    def _slice(self) -> Truth:
        """The loss where all numbers in the vectors are raised together."""
        u, v = np.split(self.vectors(self.share), 2)
        t = np.linspace(-0.5, 0.5, 21)
        direction = torch.ones(2 * self.size * self.dimension, dtype=torch.float64)
        values = np.array([self.loss_at((u + s) @ (v + s).T) for s in t])
        return Truth(values, source="Definition.", options={"direction": direction, "span": 0.5})

    def _pair_truths(self) -> dict[str, Truth]:
        """The embedding against the finished one: vectors, outputs, kernel and loss scale with the share."""
        s, x = self.share, self.optimum
        root, vectors = math.sqrt(s), self.vectors(1.0)
        gap = self.loss_at(s * x) / self.loss_at(x) - 1
        t = np.linspace(0, 1, 11)
        line = np.array([self.loss_at(((1 - a) * root + a) ** 2 * x) for a in t])
        how = partial(
            Truth, source="With √share of the vectors, x is the share of the optimum.", other=_finished
        )
        return {
            "distance_from_init": how((1 - root) * float(np.linalg.norm(vectors))),
            "function_distance": how((1 - s) / math.sqrt(0.5 * s**2 + 0.5)),
            "linearised_error": how((1 - root) ** 2 / (1 - s)),
            "ntk_drift": how(1 - s),
            "lazy_index": how((1 - s) / gap),
            "linear_connectivity": how(
                line - (1 - t) * line[0] - t * line[-1], reading="excess", error="none"
            ),
        }

    def _path(self) -> Path:
        """Gradient descent followed by hand."""
        points, slopes, losses = [self.vectors(self.share).ravel()], [], []
        for _ in range(STEPS + 1):
            loss, slope = self.gradient_at(points[-1])
            losses.append(loss)
            slopes.append(slope)
            points.append(points[-1] - self.rate * slope)
        return Path(np.array(points[:-1]), np.array(slopes), np.array(losses), self.hessian, self.rate)

    # ------------------------------------------------------------------ experiments

    def trained(self, generator: torch.Generator) -> tuple[float, np.ndarray]:
        """Loss and matrix x after training by Newton's method from small random vectors."""
        start = 0.5 * torch.randn(2 * self.size * self.dimension, generator=generator, dtype=torch.float64)
        found = minimize(
            self.gradient_at,
            start.numpy(),
            jac=True,
            hess=self.hessian_at,
            method="trust-exact",
            options={"gtol": 1e-10, "maxiter": 2000},
        )
        u, v = np.split(found.x.reshape(2 * self.size, -1), 2)
        return self.loss_at(u @ v.T), u @ v.T

    def _train(self, generator: torch.Generator) -> Measurement:
        return trial_result("pmi", self.trained(generator)[1])

    def _least(self, generator: torch.Generator) -> Measurement:
        return trial_result("least_loss", self.trained(generator)[0])

    def _rank(self, generator: torch.Generator) -> Measurement:
        """Number of singular values of the optimum that are not rounding."""
        strengths = np.linalg.svd(self.optimum, compute_uv=False)
        return trial_result("rank", float((strengths > 1e-10 * strengths[0]).sum()))

    def _count(self, generator: torch.Generator) -> Measurement:
        """The best x for a corpus that was drawn, ln(real / blind pairs), with the error of the counts."""
        draw = np.random.default_rng(int(torch.randint(2**31, (), generator=generator)))
        real = draw.multinomial(_CORPUS, self.table.ravel())
        chances = (self.blind / self.negatives).ravel()
        blind = draw.multinomial(self.negatives * _CORPUS, chances / chances.sum())
        error = np.sqrt(1 / real + 1 / blind)
        shape = self.table.shape
        return trial_result("pmi_of_a_corpus", np.log(real / blind).reshape(shape), error.reshape(shape))

    # ------------------------------------------------------------------ what it looks like

    def draw(self, figure: Figure) -> None:
        """The optimum as a table; what a trained embedding says against it."""
        left, right = figure.subplots(1, 2)
        top = float(np.abs(self.optimum).max())
        shown = left.imshow(self.optimum, cmap="RdBu", vmin=-top, vmax=top)
        left.set(xlabel="context", ylabel="word", title="PMI - ln k")
        figure.colorbar(shown, ax=left, shrink=0.7).ax.set(xlabel="scale", ylabel="nats")
        line = np.array([self.optimum.min(), self.optimum.max()])
        right.plot(line, line, color="0.6", ls=":")
        counted = np.asarray(self._count(self.generator()).value)
        right.plot(self.optimum.ravel(), counted.ravel(), "o", ms=6, mfc="none", label="counted in a corpus")
        right.plot(self.optimum.ravel(), self.trained(self.generator())[1].ravel(), "x", label="trained")
        right.set(xlabel="PMI - ln k (nats)", ylabel="u · v", title=self.title)
        right.legend()


def _finished(toy: PmiEmbedding) -> Objective:
    return Objective(toy.model(1.0), told_apart, toy.data)


TOY = PmiEmbedding
