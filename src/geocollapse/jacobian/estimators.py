"""The estimators of ||J||_F^2 by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

from torch import Tensor

from geocollapse.jacobian import probes

Estimator = Literal[
    "exact", "rademacher", "aligned", "gaussian", "orthogonal", "input", "outputs", "masked"
]

# from seed, positions of the examples (n,), number of probes and p to probes (n, probes, p)
OUTPUT_PROBES: dict[str, Callable[[int, Tensor, int, int], Tensor]] = {
    "rademacher": probes.rademacher,
    "gaussian": probes.gaussian,
    "orthogonal": probes.orthogonal,
    "outputs": probes.sampled_outputs,
}
# estimators whose probes of one example depend on each other; all p of them are exact
WITHOUT_REPLACEMENT = ("orthogonal", "outputs")
ALIGNED_EXAMPLES = 256  # the examples whose features give the directions of aligned probes
ALIGNED_DIRECTIONS = 16


def check_estimator(estimator: str, n_probes: int | Literal["auto"]) -> None:
    """Raise a ValueError for an unknown estimator or a number of probes below 1."""
    if estimator not in get_args(Estimator):
        names = ", ".join(get_args(Estimator))
        raise ValueError(
            f"estimator: expected one of {names}, got {estimator!r}; do estimator='rademacher'"
        )
    if estimator == "masked" and n_probes == "auto":
        raise ValueError(
            "n_probes: expected the number of entries to keep of each Jacobian for "
            "estimator='masked', got 'auto'; do n_probes=1000"
        )
    if n_probes != "auto" and (
        isinstance(n_probes, bool) or not isinstance(n_probes, int) or n_probes < 1
    ):
        raise ValueError(
            f"n_probes: expected a whole number of at least 1, got {n_probes!r}; do n_probes=1"
        )
