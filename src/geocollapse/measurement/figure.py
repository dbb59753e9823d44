"""The measurement of one layer as a figure, and figures as files."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from geocollapse.collapse import LabelledFeatures, pairwise_cdnv
from geocollapse.measurement.layer import LayerMeasurement
from geocollapse.measurement.table import title_of
from geocollapse.runtime.files import written_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Metadata by ending, without dates and versions, so that the same figure is the same file.
_METADATA: Mapping[str, dict[str, None]] = {
    ".png": {"Software": None},
    ".pdf": {"CreationDate": None},
    ".svg": {"Date": None},
}


def as_figure(layer: LayerMeasurement) -> Figure:
    """A figure of geometric complexity by class, with 95 % intervals, and CDNV by pair.

    The first panel is left out where geometric complexity is not known.
    """
    from matplotlib.figure import Figure

    has_complexity = not math.isnan(layer.geometric_complexity.value)
    figure = Figure(figsize=(10 if has_complexity else 5.5, 4.2), layout="constrained")
    axes = figure.subplots(1, 2 if has_complexity else 1, squeeze=False)[0]
    if has_complexity:
        _draw_complexity(axes[0], layer)
    names = list(layer.class_names)
    statistics = LabelledFeatures.of(layer.features, layer.labels).statistics
    image = axes[-1].imshow(pairwise_cdnv(statistics).cpu().numpy(), cmap="cividis")
    axes[-1].set_xticks(range(len(names)), names, rotation=90)
    axes[-1].set_yticks(range(len(names)), names)
    figure.colorbar(image, ax=axes[-1], label="CDNV of the pair (no unit)")
    figure.suptitle(title_of(layer))
    return figure


def _draw_complexity(axis: Axes, layer: LayerMeasurement) -> None:
    """Draw a point with its interval for each class."""
    names = list(layer.class_names)
    estimates = list(layer.class_complexity.values())
    values = [estimate.value for estimate in estimates]
    bounds = [estimate.interval() for estimate in estimates]
    errors = [
        [value - low for value, (low, _) in zip(values, bounds)],
        [high - value for value, (_, high) in zip(values, bounds)],
    ]
    axis.errorbar(values, range(len(names)), xerr=errors, fmt="o", color="#0072B2", capsize=3)
    axis.set_yticks(range(len(names)), names)
    axis.invert_yaxis()
    axis.set_xlabel("geometric complexity of the class (feature unit / input unit)$^2$")


def check_figure(path: Path, *, argument: str = "path") -> None:
    """Raise a ValueError for a file that ``save_figure`` cannot write."""
    if path.suffix not in _METADATA:
        raise ValueError(
            f"{argument}: expected a file ending in {', '.join(_METADATA)}, got {str(path)!r}; do "
            f"figure.png"
        )


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, PDF or SVG, by the ending of ``path``."""
    from matplotlib import rc_context

    check_figure(path)
    with (
        rc_context({"svg.hashsalt": "geocollapse", "pdf.fonttype": 42}),
        written_whole(path) as partial,
    ):
        figure.savefig(partial, format=path.suffix[1:], dpi=150, metadata=_METADATA[path.suffix])
