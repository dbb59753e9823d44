"""The networks of the papers' experiments, each ending in one linear layer, ``classifier``."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

Activation = Literal["relu", "tanh"]

_VGG = {  # channels of each convolution at width 64; "M" is a 2 x 2 max-pooling
    "vgg11": (64, "M", 128, "M", 256, 256, "M", 512, 512, "M", 512, 512, "M"),
    "vgg13": (64, 64, "M", 128, 128, "M", 256, 256, "M", 512, 512, "M", 512, 512, "M"),
}


class VGG(nn.Module):
    """VGG for small images: convolutions of 3 x 3, global average pooling, one linear layer.

    Source: Simonyan and Zisserman (2015), table 1, columns A and B, without the two hidden linear
    layers.

    Args:
        plan: channels of each convolution, ``"M"`` for a max-pooling; images must be at least
            2^(number of poolings) pixels wide.
        num_classes: outputs.
        in_channels: channels of the images.
        width: channels of the first convolution; the others scale with it (64 is the published
            network).
        batch_norm: normalise behind each convolution; without it only He initialisation trains.
    """

    def __init__(
        self,
        plan: Sequence[int | str],
        num_classes: int = 10,
        *,
        in_channels: int = 3,
        width: int = 64,
        batch_norm: bool = True,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = in_channels
        for entry in plan:
            if isinstance(entry, str):
                layers.append(nn.MaxPool2d(2))
                continue
            n_channels = max(1, entry * width // 64)
            layers.append(nn.Conv2d(channels, n_channels, 3, padding=1, bias=not batch_norm))
            layers += [nn.BatchNorm2d(n_channels)] if batch_norm else []
            layers.append(nn.ReLU(inplace=True))
            channels = n_channels
        self.features = nn.Sequential(*layers)
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.classifier = nn.Linear(channels, num_classes)
        self.min_size = 2 ** sum(entry == "M" for entry in plan)
        he_initialisation(self)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (n, num_classes) of images (n, in_channels, h, w)."""
        if min(x.shape[-2:]) < self.min_size:
            raise ValueError(
                f"x: expected images of at least {self.min_size} x {self.min_size}, got "
                f"{tuple(x.shape[-2:])}; "
                f"do pad them, e.g. pad_to=32"
            )
        return self.classifier(self.pool(self.features(x)))


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions with a shortcut; a 1 x 1 projection where the shape changes.

    Source: He, Zhang, Ren, Sun (2016), figure 2 and option B.
    """

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != channels:
            projection = nn.Conv2d(in_channels, channels, 1, stride, bias=False)
            self.shortcut = nn.Sequential(projection, nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        """(n, in_channels, h, w) -> (n, channels, h/stride, w/stride)."""
        out = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(out)) + self.shortcut(x))


class ResNet18(nn.Module):
    """ResNet-18 for small images: its stem is one 3 x 3 convolution, without stride or pooling.

    Source: He, Zhang, Ren, Sun (2016), table 1, 18 layers; the stem of section 4.2.

    Args:
        num_classes: outputs.
        in_channels: channels of the images.
        width: multiplies all channels; 1 is the published network (64 to 512).
    """

    def __init__(self, num_classes: int = 10, *, in_channels: int = 3, width: float = 1.0) -> None:
        super().__init__()
        channels = [max(1, round(c * width)) for c in (64, 128, 256, 512)]
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, channels[0], 3, padding=1, bias=False),
            nn.BatchNorm2d(channels[0]),
            nn.ReLU(inplace=True),
        )
        self.layer1 = self._stage(channels[0], channels[0], 1)
        self.layer2 = self._stage(channels[0], channels[1], 2)
        self.layer3 = self._stage(channels[1], channels[2], 2)
        self.layer4 = self._stage(channels[2], channels[3], 2)
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.classifier = nn.Linear(channels[3], num_classes)
        he_initialisation(self)

    @staticmethod
    def _stage(in_channels: int, channels: int, stride: int) -> nn.Sequential:
        return nn.Sequential(
            BasicBlock(in_channels, channels, stride), BasicBlock(channels, channels, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Logits (n, num_classes) of images (n, in_channels, h, w)."""
        x = self.layer4(self.layer3(self.layer2(self.layer1(self.stem(x)))))
        return self.classifier(self.pool(x))


class SmallCNN(nn.Module):
    """Three 3 x 3 convolutions, each followed by a 2 x 2 max-pooling, and one linear layer."""

    def __init__(
        self,
        num_classes: int = 10,
        *,
        in_channels: int = 3,
        width: int = 32,
        batch_norm: bool = True,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in zip((in_channels, width, 2 * width), (width, 2 * width, 4 * width)):
            layers.append(nn.Conv2d(before, after, 3, padding=1, bias=not batch_norm))
            layers += [nn.BatchNorm2d(after)] if batch_norm else []
            layers += [nn.ReLU(inplace=True), nn.MaxPool2d(2)]
        self.features = nn.Sequential(*layers)
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.classifier = nn.Linear(4 * width, num_classes)
        he_initialisation(self)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (n, num_classes) of images (n, in_channels, h, w), h and w at least 8."""
        return self.classifier(self.pool(self.features(x)))


class MLP(nn.Module):
    """Fully connected layers with ReLU on the flattened input.

    The embedding is the last hidden layer.

    Args:
        num_classes: outputs.
        in_features: entries of an input.
        hidden: features of each hidden layer.
        activation: ``relu``, or ``tanh`` for a network with all derivatives.
    """

    def __init__(
        self,
        num_classes: int = 10,
        *,
        in_features: int = 64,
        hidden: Sequence[int] = (128, 64),
        activation: Activation = "relu",
    ) -> None:
        super().__init__()
        if activation not in get_args(Activation):
            raise ValueError(
                f"activation: expected 'relu' or 'tanh', got {activation!r}; do activation='relu'"
            )
        if any(width < 1 for width in hidden):
            raise ValueError(
                f"hidden: expected widths of at least 1, got {list(hidden)}; do hidden=[64]"
            )
        layers: list[nn.Module] = [nn.Flatten()]
        for before, after in zip((in_features, *hidden), hidden):
            layers.append(nn.Linear(before, after))
            layers.append(nn.Tanh() if activation == "tanh" else nn.ReLU(inplace=True))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(hidden[-1] if hidden else in_features, num_classes)
        he_initialisation(self)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (n, num_classes) of inputs (n, ...)."""
        return self.classifier(self.features(x))


def vgg11(
    num_classes: int = 10, *, in_channels: int = 3, width: int = 64, batch_norm: bool = True
) -> VGG:
    """VGG-11 (8 convolutions); see ``VGG``."""
    return VGG(
        _VGG["vgg11"], num_classes, in_channels=in_channels, width=width, batch_norm=batch_norm
    )


def vgg13(
    num_classes: int = 10, *, in_channels: int = 3, width: int = 64, batch_norm: bool = True
) -> VGG:
    """VGG-13 (10 convolutions); see ``VGG``."""
    return VGG(
        _VGG["vgg13"], num_classes, in_channels=in_channels, width=width, batch_norm=batch_norm
    )


def he_initialisation(model: nn.Module) -> None:
    """Draw weights from N(0, 2/fan_in) and set biases to 0.

    Of convolutions and linear layers; batch normalisation keeps scale 1 and shift 0.

    Source: He, Zhang, Ren, Sun (2015), "Delving deep into rectifiers", eq. 10.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


@torch.no_grad()
def scale_weights(model: nn.Module, factor: float) -> None:
    """Multiply the weights of convolutions and linear layers; biases and normalisations stay.

    A layer before a normalisation computes the same as before. L layers without normalisation,
    without biases and with ReLU scale their output by factor^L, and geometric complexity by
    factor^(2 L).

    Examples:
        >>> model = MLP(in_features=3, hidden=(4, 4))
        >>> x = torch.ones(1, 3)
        >>> before = model(x)
        >>> scale_weights(model, 2.0)
        >>> torch.allclose(model(x), 8 * before)
        True
    """
    if factor == 1.0:
        return
    for module in model.modules():
        if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear):
            module.weight.mul_(factor)


@dataclass(frozen=True)
class Architecture:
    """A network that ``build`` makes by its name."""

    name: str
    factory: Callable[..., nn.Module]
    description: str
    source: str
    takes_images: bool = True


MODELS: Mapping[str, Architecture] = {
    entry.name: entry
    for entry in (
        Architecture(
            "vgg11",
            vgg11,
            "8 convolutions, one linear layer on the pooled features",
            "Simonyan 2015",
        ),
        Architecture(
            "vgg13",
            vgg13,
            "10 convolutions, one linear layer on the pooled features",
            "Simonyan 2015",
        ),
        Architecture(
            "resnet18", ResNet18, "residual network with the stem for small images", "He 2016"
        ),
        Architecture("small_cnn", SmallCNN, "three convolutions, for quick runs", "this project"),
        Architecture(
            "mlp",
            MLP,
            "fully connected layers on the flattened input",
            "this project",
            takes_images=False,
        ),
    )
}


def build(
    name: str, *, num_classes: int, input_shape: Sequence[int], **settings: object
) -> nn.Module:
    """A network by name, initialised from torch's random state.

    Args:
        name: a key of ``MODELS``.
        num_classes: outputs.
        input_shape: shape of one example, (channels, h, w) for images.
        settings: arguments of the architecture (``width``, ``batch_norm``, ``hidden``,
            ``activation``).

    Raises:
        ValueError: an unknown name (the nearest is named), or a setting that the architecture does
            not take.

    Examples:
        >>> build("mlp", num_classes=5, input_shape=(64,), hidden=[32])(torch.zeros(2, 64)).shape
        torch.Size([2, 5])
    """
    if name not in MODELS:
        near = difflib.get_close_matches(name, MODELS, n=1, cutoff=0.3) or list(MODELS)[:1]
        raise ValueError(f"model: expected one of {', '.join(MODELS)}, got {name!r}; do {near[0]}")
    shape = (
        {"in_channels": input_shape[0]}
        if MODELS[name].takes_images
        else {"in_features": _numel(input_shape)}
    )
    try:
        return MODELS[name].factory(num_classes, **shape, **settings)
    except TypeError as error:
        raise ValueError(
            f"model: expected settings that {name} takes, got {settings}; do check: {error}"
        ) from error


def _numel(shape: Sequence[int]) -> int:
    return int(torch.tensor(shape).prod())
