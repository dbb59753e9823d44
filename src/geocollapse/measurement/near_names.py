"""Names that people try for a measure, each answered with the right one."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, NoReturn

RIGHT_NAMES = {
    "acc": "accuracy",
    "alpha_req": "label_free.alpha_req",
    "class_gc": "class_complexity",
    "complexity": "geometric_complexity",
    "effective_rank": "label_free.effective_rank",
    "feature_norm": "label_free.feature_norm",
    "gc": "geometric_complexity",
    "gc_per_pixel": "gc_pixel",
    "gcol": "geometric_collapse",
    "geometric_complexity_per_class": "class_complexity",
    "nc": "cdnv",
    "nc2": "nc2_equinorm, nc2_equiangular or nc2_max_angle",
    "nearest_mean_bound": "bounds",
    "poincare": "poincare_ratio",
    "rankme": "label_free.rankme",
}
OF_JSON = (
    *("n_samples", "n_features", "n_classes", "classes", "split"),
    *("preprocessing", "provenance"),
)


class NearNames:
    """Answers a name that is no attribute with the one that is meant."""

    if not TYPE_CHECKING:  # for a type checker every attribute is declared

        def __getattr__(self, name: str) -> NoReturn:
            if name.startswith("_"):  # protocols of Python, such as those of copies
                raise AttributeError(name)
            if hasattr(type(self), name):  # a property has its own error
                return object.__getattribute__(self, name)
            raise AttributeError(
                f"{name}: expected the name of a measure; do {_remedy(name, dir(self))}"
            )


def _remedy(name: str, known: list[str]) -> str:
    if name in RIGHT_NAMES:
        return f".{RIGHT_NAMES[name]}"
    if name in OF_JSON:
        return f'.to_dict()["{name}"]'
    near = difflib.get_close_matches(name, [*known, *RIGHT_NAMES], n=1, cutoff=0.7)
    if not near:
        return "dir(), which lists them"
    return f".{RIGHT_NAMES.get(near[0], near[0])}"
