"""``python benchmarks/penalty.py``: noise of the penalty's gradient, bias of finite differences.

The noise of one step is the root mean square distance of its gradient from the mean of many, over
the size of that mean. The bias is that of value and gradient at the same probes, against forward
mode in float64, of the network as it is and without its kinks.
"""

from __future__ import annotations

import copy

import torch
from models import images
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import geocollapse as geo
from geocollapse.models import build

BATCH, N_DRAWS = 64, 40
METHODS = ("forward_mode", "double_backward")


def networks() -> dict[str, nn.Module]:
    """Build two VGG-13 without batch normalisation and a small ViT, untrained."""
    import timm

    torch.manual_seed(0)
    settings = {"num_classes": 10, "input_shape": (3, 32, 32), "batch_norm": False}
    vit = {
        "img_size": 32,
        "patch_size": 4,
        "embed_dim": 96,
        "depth": 4,
        "num_heads": 3,
        "num_classes": 10,
    }
    return {
        "VGG-13 width 8": build("vgg13", width=8, **settings),
        "VGG-13 width 16": build("vgg13", width=16, **settings),
        "ViT": timm.create_model("vit_tiny_patch16_224", **vit),
    }


def gradient(
    penalty: geo.GeometricComplexityPenalty, model: nn.Module, x: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the penalty and its gradient in all parameters as one vector."""
    _, loss = penalty(model, x)
    found = torch.autograd.grad(loss, list(model.parameters()), materialize_grads=True)
    return loss.detach().double(), torch.cat([g.flatten().double() for g in found])


def noise(model: nn.Module, x: Tensor, method: str) -> float:
    """Noise of the gradient of one step, relative to the mean gradient.

    The mean of N draws is itself off by the noise over sqrt(N), which is subtracted.
    """
    penalty = geo.GeometricComplexityPenalty(1.0, method=method)
    draws = torch.stack([gradient(penalty, model, x)[1] for _ in range(N_DRAWS)])
    variance = draws.var(dim=0).sum()
    return float((variance / (draws.mean(dim=0).square().sum() - variance / N_DRAWS)).sqrt())


def smoothed(model: nn.Module) -> nn.Module:
    """Copy a model without its kinks: SiLU for ReLU, mean for max pooling."""
    smooth = copy.deepcopy(model)
    for module in list(smooth.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.ReLU):
                setattr(module, name, nn.SiLU())
            if isinstance(child, nn.MaxPool2d):
                setattr(module, name, nn.AvgPool2d(child.kernel_size, child.stride, child.padding))
    return smooth


def bias(model: nn.Module, x: Tensor) -> tuple[float, float]:
    """Relative error of value and gradient by finite differences in float32, at the same probes."""
    value, found = gradient(
        geo.GeometricComplexityPenalty(1.0, method="finite_difference"), model, x
    )
    model = copy.deepcopy(model).double()
    exact, expected = gradient(geo.GeometricComplexityPenalty(1.0), model, x.double())
    return float(value / exact - 1.0), float((found - expected).norm() / expected.norm())


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    x = images()[0][:BATCH]
    errors = ("finite difference: value", "gradient", "without kinks: value", "gradient")
    table = Table("network", *(f"noise, {method}" for method in METHODS), *errors)
    for name, model in networks().items():
        noises = [f"{noise(model, x, method):.2f}" for method in METHODS]
        found = [*bias(model, x), *bias(smoothed(model), x)]
        table.add_row(name, *noises, *(f"{100 * error:.2g} %" for error in found))
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
