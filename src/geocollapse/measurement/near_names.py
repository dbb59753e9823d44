"""Names that people try for a measure, each answered with the right one."""

from __future__ import annotations

from typing import NoReturn

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
    "nc": "cdnv",
    "nc2": "nc2_equinorm, nc2_equiangular or nc2_max_angle",
    "poincare": "poincare_ratio",
    "rankme": "label_free.rankme",
}


class NearName:
    """An attribute whose AttributeError names the attribute that was meant."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, instance: object, owner: type) -> NoReturn:
        right = RIGHT_NAMES[self.name]
        raise AttributeError(f"{self.name}: expected the name of a measure; do .{right}")


class NearNames:
    """The names of ``RIGHT_NAMES`` as attributes that ``dir`` does not list."""

    acc = NearName()
    alpha_req = NearName()
    class_gc = NearName()
    complexity = NearName()
    effective_rank = NearName()
    feature_norm = NearName()
    gc = NearName()
    gc_per_pixel = NearName()
    gcol = NearName()
    nc = NearName()
    nc2 = NearName()
    poincare = NearName()
    rankme = NearName()

    def __dir__(self) -> list[str]:
        return [name for name in super().__dir__() if name not in RIGHT_NAMES]
