"""The result of a run that ended with an error."""

from __future__ import annotations

from typing import TYPE_CHECKING

from geocollapse.experiments.results.versions import VERSIONS
from geocollapse.runtime.provenance import provenance

if TYPE_CHECKING:
    import torch

    from geocollapse.experiments.results.records import RunResult

# errors whose text says what to do
_SPEAKING = (ValueError, TypeError, RuntimeError, OSError, ImportError)


def failed_result(
    own_id: str,
    error: BaseException,
    *,
    seed: int,
    step: int | None = None,
    device: torch.device | str = "cpu",
) -> RunResult:
    """The content of result.json of the run ``own_id``, which ended with ``error``."""
    return {
        "schema_version": VERSIONS["result.json"],
        "run_id": own_id,
        "status": "failed",
        "converged": False,
        "stop_step": None,
        "steps": step,
        "error": str(error) if isinstance(error, _SPEAKING) else f"{type(error).__name__}: {error}",
        "failed_step": step,
        "seconds": None,
        "final": None,
        "sampling": {},
        "provenance": provenance(seed=seed, device=device),
    }
