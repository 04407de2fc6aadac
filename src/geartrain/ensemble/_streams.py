"""Randomness without state: what member s draws at a step is a function of its seed and that step alone.

So a member is the same in whatever company it trains, and nothing but the number of the step has to be kept to go on.
"""

from __future__ import annotations

import hashlib

import torch


def derived(seed: int, stream: str, number: int = 0) -> int:
    """A seed for one purpose (``"order"``, ``"labels"``, ``"dropout"``) of one member, below 2⁶³.

    >>> derived(0, "order", 1) == derived(0, "order", 1), derived(0, "order", 1) == derived(1, "order", 1)
    (True, False)
    """
    digest = hashlib.blake2b(f"{seed}/{stream}/{number}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def generator(seed: int, stream: str, number: int = 0) -> torch.Generator:
    """A generator seeded for that purpose; always on the CPU, so that every device sees the same draws."""
    return torch.Generator().manual_seed(derived(seed, stream, number))


def permutation(seed: int, epoch: int, size: int) -> torch.Tensor:
    """The order in which member ``seed`` sees its examples in an epoch, shape (size,)."""
    return torch.randperm(size, generator=generator(seed, "order", epoch))


def noisy_labels(targets: torch.Tensor, seed: int, rate: float, classes: int) -> torch.Tensor:
    """Targets with noise from the member's own generator.

    Class numbers (integers), and floating targets that are all 0 or 1: exactly ``round(rate * n)`` examples, drawn
    without replacement, get another class, uniformly among the wrong ones. Other floating targets: Gaussian noise of
    standard deviation ``rate`` is added to each.

    Args:
        targets: Shape (n, ...), on the CPU; integers of shape (n,).
        seed: The member's seed.
        rate: Share of wrong labels, or standard deviation.
        classes: Number of classes; 0 for floating targets that are not labels.

    Returns:
        A new tensor.
    """
    draw = generator(seed, "labels")
    if not classes:
        return targets + rate * torch.randn(targets.shape, generator=draw, dtype=targets.dtype)
    count = len(targets)
    chosen = torch.randperm(count, generator=draw)[: round(rate * count)]
    shift = torch.randint(1, classes, (len(chosen),), generator=draw)
    noisy = targets.clone()
    noisy[chosen] = ((targets[chosen].long() + shift.view(-1, *[1] * (targets.ndim - 1))) % classes).to(
        targets.dtype
    )
    return noisy
