"""``python benchmarks/models.py``: train the full-width networks that the benchmarks measure, once.

Each learns 5,000 CIFAR-10 images by heart, until 99 % of them are right in evaluation mode: SGD
with momentum (AdamW for the ViT), a rate that rises and falls once, bfloat16 autocast and no
augmentation. The weights stay outside git.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from geocollapse import data
from geocollapse.models import build

FOLDER = Path(__file__).parent / "models"
N_IMAGES = 5000
TARGET = 0.99
_BATCH = 128
_SHAPE = (3, 32, 32)


def vit() -> nn.Module:
    """timm's ViT-Tiny on patches of 8 pixels: 16 tokens of 192 numbers, and 4 of its 12 blocks."""
    import timm

    return timm.create_model(
        "vit_tiny_patch16_224", num_classes=10, img_size=32, patch_size=8, depth=4
    )


@dataclass(frozen=True)
class Network:
    """A network and its training."""

    make: Callable[[], nn.Module]
    optimizer: str
    learning_rate: float
    epochs: int


NETWORKS = {
    "vgg13": Network(lambda: build("vgg13", num_classes=10, input_shape=_SHAPE), "sgd", 0.02, 24),
    "resnet18": Network(
        lambda: build("resnet18", num_classes=10, input_shape=_SHAPE), "sgd", 0.05, 16
    ),
    "vit": Network(vit, "adamw", 1e-3, 60),
}


def images() -> tuple[Tensor, Tensor]:
    """Load the training images: 500 of each class of CIFAR-10, normalised."""
    chosen = data.load("cifar10:train", subset=N_IMAGES)
    return chosen.inputs, chosen.targets


def trained(name: str) -> nn.Module:
    """Load a trained network in evaluation mode.

    Raises:
        FileNotFoundError: it was not trained yet.
    """
    path = FOLDER / f"{name}.safetensors"
    if not path.exists():
        raise FileNotFoundError(
            f"weights: expected {path}, which does not exist; do make bench-models"
        )
    model = NETWORKS[name].make()
    model.load_state_dict(load_file(path))
    return model.eval()


def train(name: str) -> None:
    """Train one network, store its weights, and print the time it took."""
    torch.manual_seed(0)
    network = NETWORKS[name]
    x, y = images()
    model = network.make().to(memory_format=torch.channels_last)
    n_steps = network.epochs * (N_IMAGES // _BATCH)
    optimizer = _optimizer(network, model)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, network.learning_rate, total_steps=n_steps
    )
    start = time.perf_counter()
    for epoch in range(1, network.epochs + 1):
        _epoch(model, x, y, optimizer, schedule)
        accuracy = _accuracy(model, x, y)
        print(
            f"{name}: epoch {epoch}, {accuracy:.2%} right, {time.perf_counter() - start:.0f} s",
            flush=True,
        )
        if accuracy >= TARGET:
            break
    FOLDER.mkdir(exist_ok=True)
    save_file(
        {key: value.contiguous() for key, value in model.state_dict().items()},
        FOLDER / f"{name}.safetensors",
    )


def _optimizer(network: Network, model: nn.Module) -> torch.optim.Optimizer:
    if network.optimizer == "sgd":
        return torch.optim.SGD(
            model.parameters(), network.learning_rate, momentum=0.9, weight_decay=5e-4
        )
    return torch.optim.AdamW(model.parameters(), network.learning_rate)


def _epoch(
    model: nn.Module, x: Tensor, y: Tensor, optimizer: torch.optim.Optimizer, schedule: object
) -> None:
    model.train()
    for rows in torch.randperm(N_IMAGES)[: N_IMAGES // _BATCH * _BATCH].split(_BATCH):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            output = model(x[rows].to(memory_format=torch.channels_last))
        optimizer.zero_grad()
        F.cross_entropy(output.float(), y[rows]).backward()
        optimizer.step()
        schedule.step()  # type: ignore[attr-defined]


def _accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    model.eval()
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        right = [model(a).argmax(dim=1) == b for a, b in zip(x.split(500), y.split(500))]
    return float(torch.cat(right).double().mean())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=list(NETWORKS), help=", ".join(NETWORKS))
    for name in parser.parse_args().names:
        train(name)
