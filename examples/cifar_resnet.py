"""ResNets for CIFAR-10 with parameter-free shortcuts (He et al. 2016, section 4.2, option A).

Its parameters have the names of public checkpoints of these networks, so their weights load:

    geocollapse measure examples/cifar_resnet.py:resnet20 cifar10:test --weights resnet20.th
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from geocollapse.data import Normalisation

# of the public checkpoints: that of ImageNet
NORMALISATION = Normalisation(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


class Block(nn.Module):
    """Two 3 x 3 convolutions; the shortcut drops pixels and pads the new channels with zeros."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.stride = stride
        self.n_new = (channels - in_channels) // 2

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        shortcut = F.pad(
            x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.n_new, self.n_new)
        )
        return F.relu(out + shortcut)


class CifarResNet(nn.Module):
    """Three stages of n blocks with 16, 32 and 64 channels: 6n + 2 layers. Pools functionally."""

    def __init__(self, n_blocks: int, num_classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = self._stage(16, 16, n_blocks, 1)
        self.layer2 = self._stage(16, 32, n_blocks, 2)
        self.layer3 = self._stage(32, 64, n_blocks, 2)
        self.linear = nn.Linear(64, num_classes)
        self.normalisation = NORMALISATION

    @staticmethod
    def _stage(in_channels: int, channels: int, n_blocks: int, stride: int) -> nn.Sequential:
        rest = [Block(channels, channels, 1) for _ in range(n_blocks - 1)]
        return nn.Sequential(Block(in_channels, channels, stride), *rest)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.layer3(self.layer2(self.layer1(out)))
        return self.linear(torch.flatten(F.adaptive_avg_pool2d(out, 1), 1))


def resnet20() -> CifarResNet:
    """Depth 20."""
    return CifarResNet(3)


def resnet32() -> CifarResNet:
    """Depth 32."""
    return CifarResNet(5)


def resnet44() -> CifarResNet:
    """Depth 44."""
    return CifarResNet(7)


def resnet56() -> CifarResNet:
    """Depth 56."""
    return CifarResNet(9)
