"""Few-shot episodes: drawn from labels, sizes and seed alone, and the features that they take."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from numbers import Integral

import torch
from torch import Tensor

from geocollapse.arrays import row_slices


@dataclass(frozen=True)
class EpisodeSizes:
    """Numbers of classes, examples and episodes; ``draw_episodes`` checks them against labels."""

    n_way: int
    k_shot: int
    n_query: int
    n_episodes: int

    def __post_init__(self) -> None:
        least = {"n_way": 2, "k_shot": 1, "n_query": 1, "n_episodes": 2}
        for name, smallest in least.items():
            given = getattr(self, name)
            if not isinstance(given, Integral) or int(given) < smallest:
                raise ValueError(
                    f"{name}: expected a whole number of at least {smallest}, got {given!r}; do "
                    f"{name}={smallest}"
                )


@dataclass(frozen=True)
class Episodes:
    """Drawn episodes.

    Attributes:
        rows: positions of the examples (n_episodes, n_way, k_shot + n_query); the first k_shot of
            each class are its labelled examples.
        ways: label of each class of each episode (n_episodes, n_way).
        classes: labels of all classes that were drawn from (C,), ascending.
        k_shot: labelled examples of each class.
    """

    rows: Tensor
    ways: Tensor
    classes: Tensor
    k_shot: int

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def digest(self) -> str:
        """A hash of the positions, their classes and the shots: equal for equal episodes."""
        found = hashlib.sha256(f"{tuple(self.rows.shape)} {self.k_shot}".encode())
        for part in (self.rows, self.ways, self.classes):
            found.update(part.contiguous().numpy().tobytes())
        return found.hexdigest()[:16]

    def gathered(
        self, x: Tensor, origin: Tensor, n_chunks: int = 1
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield support (e, n_way, k, p) and query (e, n_way, q, p) of chunks in float64.

        They are relative to ``origin`` (p,) in float64. Chunks that fit the cache are three times
        as fast as 32 MiB; work of many small steps takes ``n_chunks`` of them at a time.
        """
        rows = self.rows.to(x.device)
        width = self.rows[0].numel() * x.shape[1] // n_chunks
        for part in row_slices(len(rows), width, x.device):
            yield (
                _relative(x, rows[part, :, : self.k_shot], origin),
                _relative(x, rows[part, :, self.k_shot :], origin),
            )


def draw_episodes(
    labels: Tensor, sizes: EpisodeSizes, seed: int, names: Mapping[int, str] | None = None
) -> Episodes:
    """Draw the examples of each episode, as a function of labels, sizes and seed alone.

    With the same seed, episodes of more shots have the classes and the labelled examples of those
    of fewer.

    Args:
        labels: (n,) integers.
        sizes: numbers of classes, examples and episodes.
        seed: of the draws.
        names: name of each class, for errors.

    Raises:
        ValueError: more ways than classes, or a class with too few examples.
    """
    labels = labels.cpu()
    order = labels.argsort(stable=True)
    classes, counts = labels.unique(return_counts=True)
    _check_sizes(classes, counts, sizes, names or {})
    generator = torch.Generator().manual_seed(seed)
    shape = (sizes.n_episodes, len(classes))
    keys = torch.rand(shape, generator=generator, dtype=torch.float64)
    ways = keys.argsort(dim=1)[:, : sizes.n_way]
    starts = counts.cumsum(0) - counts
    places = _distinct(counts[ways], sizes.k_shot + sizes.n_query, generator)
    rows = order[starts[ways][..., None] + places]
    return Episodes(rows, classes[ways], classes, sizes.k_shot)


def _distinct(counts: Tensor, k: int, generator: torch.Generator) -> Tensor:
    """Draw k distinct numbers below each of ``counts``, in random order: (*counts.shape, k).

    Draw j is uniform over the numbers that are left: it is shifted past the smaller ones drawn
    before, in ascending order.
    """
    drawn: list[Tensor] = []
    taken = counts.new_zeros(*counts.shape, 0)
    for j in range(k):
        uniform = torch.rand(counts.shape, generator=generator, dtype=torch.float64)
        number = (uniform * (counts - j)).long()
        for earlier in taken.unbind(-1):
            number += number >= earlier
        drawn.append(number)
        taken = torch.cat([taken, number[..., None]], dim=-1).sort(dim=-1).values
    return torch.stack(drawn, dim=-1)


def _relative(x: Tensor, rows: Tensor, origin: Tensor) -> Tensor:
    taken = x.index_select(0, rows.flatten()).double().sub_(origin)
    return taken.view(*rows.shape, -1)


def _check_sizes(
    classes: Tensor, counts: Tensor, sizes: EpisodeSizes, names: Mapping[int, str]
) -> None:
    if len(classes) < 2:
        found = f"label {int(classes[0])} only" if len(classes) else "no examples"
        raise ValueError(
            f"labels: expected at least two classes, got {found}; do pass examples of another class"
        )
    if sizes.n_way > len(classes):
        raise ValueError(
            f"n_way: expected at most {len(classes)} classes, got {sizes.n_way}; do "
            f"n_way={len(classes)}"
        )
    needed = sizes.k_shot + sizes.n_query
    n_short = int((counts < needed).sum())
    if n_short:
        smallest = int(counts.argmin())
        available = int(counts[smallest])
        label = int(classes[smallest])
        others = f" and too few of {n_short - 1} more" if n_short > 1 else ""
        name = f"{names[label]!r}" if label in names else str(label)
        raise ValueError(
            f"n_query: expected k_shot + n_query = {needed} examples of each class, got "
            f"{available} of class {name}{others}; do {_remedy(available, sizes)}"
        )


def _remedy(available: int, sizes: EpisodeSizes) -> str:
    """Suggest what to do with a class of ``available`` examples."""
    if available > sizes.k_shot:
        return f"n_query={available - sizes.k_shot}"
    if available > 1:
        return f"k_shot=1 and n_query={min(sizes.n_query, available - 1)}, or drop the class"
    return "drop the class"
