"""The colours of a PNG with a palette: those of the series are kept as they are."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from geocollapse.charts.chart import MARKS

if TYPE_CHECKING:
    from PIL.Image import Image

N_COLOURS = 64  # of a palette; six bits a pixel
_FREQUENT = 32  # colours of the largest areas, which are kept too: bands, grid, background
_EACH = np.array([1 << 16, 1 << 8, 1])  # red, green and blue as one number


def as_palette_png(drawn: io.BytesIO) -> bytes:
    """A PNG of 64 colours, a quarter of the size of the one that is given.

    Every colour of a mark and the most frequent colours of the image stay exact. Median cut alone
    gives its colours to large areas, and draws two thin lines in one.
    """
    import PIL.Image

    image = PIL.Image.open(drawn).convert("RGB")
    pixels = np.asarray(image).astype(np.int64) @ _EACH
    colours, place, counts = np.unique(pixels, return_inverse=True, return_counts=True)
    palette = _palette(image, colours, counts)
    nearest = _nearest(_channels(colours), _channels(palette))
    indexed = PIL.Image.fromarray(nearest[place].reshape(pixels.shape).astype(np.uint8), mode="P")
    indexed.putpalette(_channels(palette).astype(np.uint8).tobytes())
    written = io.BytesIO()
    indexed.save(written, format="png", optimize=True)
    return written.getvalue()


def _palette(image: Image, colours: NDArray[np.int64], counts: NDArray[np.int64]) -> NDArray:
    """Colours of marks, the most frequent ones, and those of the median cut, in this order."""
    from PIL.Image import Dither, Quantize

    marks = [int(mark.colour[1:], 16) for mark in MARKS]
    frequent = colours[np.argsort(-counts, kind="stable")[:_FREQUENT]]
    cut = image.quantize(N_COLOURS - _FREQUENT - len(marks), Quantize.MEDIANCUT, dither=Dither.NONE)
    rest = np.array(cut.getpalette(), dtype=np.int64).reshape(-1, 3) @ _EACH
    return np.array(list(dict.fromkeys([*marks, *frequent, *rest])), dtype=np.int64)


def _channels(colours: NDArray[np.int64]) -> NDArray[np.int64]:
    """Colours (n,) as red, green and blue (n, 3)."""
    return np.stack([colours >> 16, (colours >> 8) & 255, colours & 255], axis=1)


def _nearest(colours: NDArray[np.int64], palette: NDArray[np.int64]) -> NDArray[np.intp]:
    """The place in the palette (k, 3) of the colour nearest to each of ``colours`` (n, 3)."""
    squared = ((colours[:, None, :] - palette[None, :, :]) ** 2).sum(axis=2)
    nearest: NDArray[np.intp] = squared.argmin(axis=1)
    return nearest
