"""The faults of the files of a run, in words: what a run wrote identifies itself as its own."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from geocollapse.experiments.results.tensors import digest
from geocollapse.experiments.results.versions import unversioned

if TYPE_CHECKING:
    from geocollapse.experiments.results.records import RunResult


def result_fault(result: Mapping[str, object] | None, run_id: str) -> str | None:
    """The reason why an object is not the result of this run; None if it is.

    Args:
        result: the content of result.json; None if it is no JSON object.
        run_id: of the run.
    """
    if result is None or result.get("status") not in ("done", "failed"):
        return "it is not a result"
    if result.get("run_id") != run_id:
        return f"it is of run {result.get('run_id')}"
    if result["status"] == "failed":
        return None
    final = result.get("final")
    if not isinstance(final, Mapping) or not isinstance(final.get("step"), int):
        return "it says done and has no final measurement"
    if result.get("steps") != final["step"] or not isinstance(result.get("converged"), bool):
        return "it says done, and not after how many steps or if it converged"
    return None


def config_fault(content: Mapping[str, object], run_id: str) -> str | None:
    """The reason why an object is not the configuration of this run; None if it is.

    The name of a run is a hash of its configuration, so any other configuration is found.
    """
    from geocollapse.experiments.recipe import parse_run_config
    from geocollapse.experiments.recipe import run_id as run_id_of

    try:
        found = run_id_of(parse_run_config(unversioned(content)))
    except ValueError as error:
        return f"it is not the configuration of a run ({error})"
    return None if found == run_id else f"it is of run {found}"


def order_fault(steps: Sequence[object]) -> str | None:
    """The reason why the steps of a history cannot be as they were written; None if they can."""
    if not all(isinstance(step, int) and not isinstance(step, bool) for step in steps):
        return "a line of it cannot be read"
    numbers = [step for step in steps if isinstance(step, int)]
    if not all(one < two for one, two in itertools.pairwise(numbers)):
        return "its steps do not increase"
    return None


def history_fault(
    history: Sequence[Mapping[str, object]], lines: bytes, result: RunResult
) -> str | None:
    """The reason why a history is not that of a result; None if it is.

    Args:
        history: the records.
        lines: their text.
        result: of a run that is done.
    """
    final = result["final"]
    if final is not None and (not history or history[-1]["step"] != final["step"]):
        return "it does not reach the end of the run"
    if result.get("history_sha256") not in (None, digest(lines)):
        return "it was changed, or is of another run than result.json"
    return None
