"""The experiments of Munn, Dherin, Gonzalvo (2024), and this project's questions beside them."""

from __future__ import annotations

from dataclasses import dataclass

from geocollapse.papers.collapse_transfer.claims import (
    COMPLEXITY_COLLAPSE,
    POINCARE_BOUND,
    SAMPLING,
    TRAINING_CHOICES,
    TRANSFER,
)

_TRAINING = (TRAINING_CHOICES.name, COMPLEXITY_COLLAPSE.name, POINCARE_BOUND.name)
_WITH_TRANSFER = (*_TRAINING, TRANSFER.name)
_RATE = "GC, geometric collapse and NC fall as the learning rate rises (caption of its figure)"
_BATCH = "GC, geometric collapse and NC fall as the batch gets smaller"
_L2 = "GC, geometric collapse and NC fall as L2 gets stronger"
_TRANSFERS = "lower source GC goes with lower target NC and higher 5-shot accuracy"


@dataclass(frozen=True)
class Experiment:
    """One figure of the paper, or one question beside it, and the recipe that answers it.

    Attributes:
        recipe: name of the shipped recipe.
        question: that it answers.
        published: what the paper shows, in words.
        charts: starts of the names of the figures that show it best.
        claims: names of the claims whose verdicts are the answer.
        seeds: of each setting, in the stored results.
        is_published: False for a question of this project.
    """

    recipe: str
    question: str
    published: str
    charts: tuple[str, ...]
    claims: tuple[str, ...]
    seeds: int = 3
    is_published: bool = True


# recipes without a stored sweep, and what they are about
BUILT_ONLY = {"cifar10-vgg13-squared-loss": "the squared loss, an open question of the paper"}

EXPERIMENTS = (
    Experiment(
        "cifar10-vgg13-learning-rate",
        "Does a larger learning rate lower GC, and collapse with it?",
        _RATE,
        ("settings",),
        _TRAINING,
    ),
    Experiment(
        "cifar10-vgg13-batch-size",
        "Does a smaller batch lower GC, and collapse with it?",
        _BATCH,
        ("settings",),
        _TRAINING,
    ),
    Experiment(
        "cifar10-vgg13-weight-decay",
        "Does stronger L2 lower GC, and collapse with it?",
        _L2,
        ("settings",),
        _TRAINING,
    ),
    Experiment(
        "cifar10-vgg13-gc-penalty",
        "Does an explicit penalty on GC lower it, and collapse with it?",
        "GC, geometric collapse and NC fall as the penalty gets stronger",
        ("settings",),
        _TRAINING,
    ),
    Experiment(
        "cifar10-vgg13-bound",
        "Does the nearest-mean bound lie above the test error, and does it say something?",
        "the bound lies above the error and follows it through training",
        ("bounds-through-training",),
        (POINCARE_BOUND.name,),
        seeds=5,
    ),
    Experiment(
        "cifar10-vgg13-sampling",
        "Do few examples, few outputs or a masked Jacobian give the full GC?",
        "sampled estimates agree with the full value",
        ("sampling",),
        (SAMPLING.name,),
    ),
    Experiment(
        "fashion-mnist-vgg11-learning-rate",
        "Does a larger learning rate lower GC on other data?",
        _RATE,
        ("settings",),
        _TRAINING,
    ),
    Experiment(
        "mnist-vgg11-weight-decay",
        "Does stronger L2 lower GC on other data?",
        _L2,
        ("settings",),
        _TRAINING,
    ),
    Experiment(
        "cifar-fs-resnet18-learning-rate",
        "Does lower source GC go with better transfer, over learning rates?",
        _TRANSFERS,
        ("transfer",),
        _WITH_TRANSFER,
    ),
    Experiment(
        "cifar-fs-resnet18-batch-size",
        "Does lower source GC go with better transfer, over batch sizes?",
        _TRANSFERS,
        ("transfer",),
        _WITH_TRANSFER,
    ),
    Experiment(
        "cifar-fs-resnet18-weight-decay",
        "Does lower source GC go with better transfer, over strengths of L2?",
        _TRANSFERS,
        ("transfer",),
        _WITH_TRANSFER,
    ),
    Experiment(
        "cifar-fs-resnet18-gc-penalty",
        "Does a penalty on GC improve transfer?",
        "not in the paper",
        ("transfer",),
        _WITH_TRANSFER,
        is_published=False,
    ),
    Experiment(
        "cifar-fs-resnet18-n-classes",
        "At a fixed number of images, what does the number of source classes do?",
        "not in the paper",
        ("target", "transfer"),
        _WITH_TRANSFER,
        is_published=False,
    ),
    Experiment(
        "banking77-text",
        "Does any of this hold for text?",
        "an open question of the paper",
        ("transfer",),
        _WITH_TRANSFER,
        is_published=False,
    ),
)
