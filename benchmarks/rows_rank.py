"""A ranking of two networks beside their bare forward passes."""

from __future__ import annotations

from functools import lru_cache

import torch
from harness import Row, Work
from torch import Tensor, nn

import geocollapse as geo
from geocollapse.models import build

_SHAPE = (3, 32, 32)
_N_EXAMPLES = 1000
_BATCH = 250
_SHARE = 1.1  # of the passes
_SECONDS = 2.0  # for all that is computed from the features


@lru_cache(maxsize=1)
def _images() -> tuple[Tensor, Tensor]:
    """Noise around an image for each of ten classes."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(_N_EXAMPLES) % 10
    means = torch.randn(10, *_SHAPE, generator=generator)
    return means[labels] + torch.randn(_N_EXAMPLES, *_SHAPE, generator=generator), labels


def _models() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    made = {name: build(name, num_classes=10, input_shape=_SHAPE) for name in ("resnet18", "vgg13")}
    return {name: model.eval() for name, model in made.items()}


def _rank() -> tuple[Work, Work]:
    models = _models()
    data = _images()

    def passes() -> None:
        with torch.inference_mode():
            for model in models.values():
                for batch in data[0].split(_BATCH):
                    model(batch)

    return lambda: geo.rank(models, data, batch_size=_BATCH), passes


ROWS = (
    Row(
        name="rank",
        work="rank ResNet-18 and VGG-13, 1,000 images of 32 x 32, p = 512",
        against=f"the budget: {_SHARE} times their bare forward passes, and {_SECONDS:g} s",
        reach=1.0,
        prepare=_rank,
        repeats=3,
        times=lambda _: _SHARE,
        allowance=_SECONDS,
    ),
)
