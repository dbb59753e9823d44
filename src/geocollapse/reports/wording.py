"""Numbers and verdicts in words, for the page and the terminal."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from geocollapse.papers.verdict import Verdict, count

MISSING = "—"
SYMBOLS = {"holds": "✓", "does not hold": "✗", "undecided": "?"}


def count_sentence(verdicts: Iterable[Verdict]) -> str:
    """The number of verdicts passed in all, and their outcomes."""
    passed = list(verdicts)
    main = [verdict for verdict in passed if verdict.view == "main"]
    counted = ", ".join(f"{n} {_plural(outcome, n)}" for outcome, n in count(main).items())
    return (
        f"{len(passed)} verdicts were passed in all: {len(main)} main ones ({counted}) and "
        f"{len(passed) - len(main)} repetitions."
    )


def effect_text(verdict: Verdict) -> str:
    """The effect size with its name, e.g. ``rho = +0.90``; nothing where it is undefined."""
    name = "rho =" if verdict.effect_name == "Spearman's rho" else verdict.effect_name
    size = effect_size(verdict)
    return f"{name} {size}" if size else ""


def effect_size(verdict: Verdict) -> str:
    """The number of the effect alone; nothing where it is undefined."""
    if math.isnan(verdict.effect):
        return ""
    shape = {"Spearman's rho": "+.2f", "coverage": ".1%"}.get(verdict.effect_name, ".3g")
    return f"{verdict.effect:{shape}}"


def number(value: object) -> str:
    """Three significant digits; a dash for what is missing; words as they are."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return MISSING
    if isinstance(value, float) and not value.is_integer():
        return f"{value:.3g}"
    return f"{int(value)}" if isinstance(value, float) else str(value)


def interval(bounds: tuple[float, float]) -> str:
    """Both ends with two decimals; a dash where one is undefined."""
    if any(math.isnan(bound) for bound in bounds):
        return MISSING
    return f"[{bounds[0]:.2f}, {bounds[1]:.2f}]"


def signed(value: float) -> str:
    """Two decimals with the sign; a dash where it is undefined."""
    return MISSING if math.isnan(value) else f"{value:+.2f}"


def percent(share: float | None) -> str:
    """A share in percent; a dash where there is none."""
    return MISSING if share is None else f"{100 * share:.1f} %"


def p_value(value: float) -> str:
    """Three decimals; a dash where it is undefined."""
    if math.isnan(value):
        return MISSING
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def listed(parts: Sequence[str]) -> str:
    """Parts of a sentence as a list: ``a, b and c``."""
    *first, last = parts
    return f"{', '.join(first)} and {last}" if first else last


def words(name: str) -> str:
    """The name of a sweep in words."""
    return name.replace("_", " ")


def _plural(outcome: str, n: int) -> str:
    if n == 1:
        return outcome
    return {"holds": "hold", "does not hold": "do not hold"}.get(outcome, outcome)
