"""The papers that have a folder here, and the verdicts of those that a recipe names."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from typing import TYPE_CHECKING

from geocollapse import papers as _folder
from geocollapse.experiments.recipe import MAIN_PAPER
from geocollapse.papers.claims import BenchmarkPaper, Claim, Paper
from geocollapse.papers.verdict import Verdict

if TYPE_CHECKING:
    from geocollapse.experiments.results.tables import SweepResults

_DEFAULT = (MAIN_PAPER,)  # of sweeps written before recipes named their papers


@cache
def papers() -> Mapping[str, Paper]:
    """Every paper that is judged on sweeps, by its name."""
    return {paper.name: paper for paper in _registered() if isinstance(paper, Paper)}


@cache
def benchmark_papers() -> Mapping[str, BenchmarkPaper]:
    """Every paper that is judged on a stored benchmark, by its name."""
    return {paper.name: paper for paper in _registered() if isinstance(paper, BenchmarkPaper)}


def _registered() -> Iterator[Paper | BenchmarkPaper]:
    for module in pkgutil.iter_modules(_folder.__path__):
        if module.ispkg:
            yield importlib.import_module(f"{_folder.__name__}.{module.name}").PAPER


def find_papers(names: Iterable[str], kind: object = "supervised") -> tuple[Paper, ...]:
    """The papers of these names, which judge a kind of experiment.

    Raises:
        ValueError: no paper of a name, or one that judges experiments of another kind.
    """
    known = {name: paper for name, paper in papers().items() if paper.kind == kind}
    found = []
    for name in names:
        if name not in known:
            raise ValueError(
                f"claims.papers: expected names among {', '.join(known)}, got {name!r}; "
                f"do claims.papers=[{next(iter(known))}]"
            )
        found.append(known[name])
    return tuple(found)


def papers_of(recipe: Mapping[str, object]) -> tuple[Paper, ...]:
    """The papers that an expanded recipe is judged by."""
    claims = recipe.get("claims")
    names = claims.get("papers", _DEFAULT) if isinstance(claims, Mapping) else _DEFAULT
    return find_papers(names, recipe.get("kind", "supervised"))


def judge(results: SweepResults, *, seed: int = 0) -> tuple[Verdict, ...]:
    """Every verdict on a sweep, paper by paper.

    Args:
        results: a sweep folder as read by `read_sweep`.
        seed: of bootstraps and sampled permutations.
    """
    judged = (paper.judge(results, seed=seed) for paper in papers_of(results.recipe))
    return tuple(verdict for verdicts in judged for verdict in verdicts)


def claims_of(judged: Iterable[Paper]) -> dict[str, Claim]:
    """The claims of papers by name, in order."""
    return {claim.name: claim for paper in judged for claim in paper.claims}
