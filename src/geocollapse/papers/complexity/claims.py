"""The claims on the many regularisers of geometric complexity; signs come from the recipe."""

from __future__ import annotations

from geocollapse.experiments.results.tables import GC, LOGITS_GC
from geocollapse.papers.claims import Claim, Figure, PanelColumns

TEST_LOSS = "test_loss"
TEST_ERROR = "margin.test_error"

REGULARISERS = Claim(
    name="complexity-regularisers",
    statement=(
        "Everyday regularisation lowers geometric complexity: stronger L2, spectral norm, gradient "
        "norm and GC penalties, a larger learning rate, a smaller batch, input noise, a smaller "
        "initialisation and label smoothing each lower it."
    ),
    judged_by="trend",
    effect="mean rho within blocks",
    figures=(
        "complexity-effects",
        "complexity-settings",
        "complexity-paths",
        "complexity-training",
    ),
    cautions=(
        "GC grows while training goes on: read the verdicts at matched training loss beside those "
        "at the end.",
        "GC of the logits grows with their scale; a regulariser that keeps the logits small, such "
        "as label smoothing or L2, lowers it without making the function simpler in another sense.",
        "With label smoothing and penalties the training loss has another floor, so that a matched "
        "loss compares other stages of training.",
        "The GC penalty is on the embedding: the classifier can undo it for the logits.",
        "Without normalisation layers; with them the scale of most weights has no effect.",
    ),
)

DOUBLE_DESCENT = Claim(
    name="complexity-double-descent",
    statement=(
        "Over widths and depths, geometric complexity rises and falls with the test error: double "
        "descent is mirrored by it."
    ),
    judged_by="correlation",
    effect="Spearman's rho",
    figures=("complexity-capacity", "complexity-settings"),
    cautions=(
        "All finished runs count: small networks cannot reach the stopping rule.",
        "Nothing is decided where the test error or loss has no inner peak that stands out of the "
        "seeds: a measure that only falls goes with any other that only falls.",
        "Small networks underfit with low GC and a high test error: the correlation over all "
        "widths also holds or fails for what lies before the first descent.",
        "A second descent is seen only with random labels or little data, and near the width that "
        "just fits the training set.",
        "Error and loss are judged apart: with random labels the loss can peak while the error "
        "falls.",
    ),
)

CLAIMS = (REGULARISERS, DOUBLE_DESCENT)

FIGURES = (
    Figure(
        name="complexity-effects",
        title="What each regulariser does to geometric complexity",
        caption=(
            "Geometric complexity over that of the weakest setting of the same sweep and seed; "
            "settings in the order of their strength. At the end of training, and at the lowest "
            "training loss that all runs of the sweep reach."
        ),
        kind="effects",
        panels=(
            PanelColumns(LOGITS_GC),
            PanelColumns(GC),
            PanelColumns(LOGITS_GC, is_matched=True),
            PanelColumns(GC, is_matched=True),
        ),
        over_folder=True,
    ),
    Figure(
        name="complexity-paths",
        title="What each regulariser does to geometric complexity, from initialisation to end",
        caption=(
            "Geometric complexity of the strongest over that of the weakest setting of the same "
            "sweep and seed, when both first have the same training loss: on the right that of "
            "initialisation, on the left the lowest that both reach."
        ),
        kind="paths",
        panels=(PanelColumns(LOGITS_GC), PanelColumns(GC)),
        over_folder=True,
    ),
    Figure(
        name="complexity-settings",
        title="Geometric complexity and test accuracy over the settings",
        caption="",
        kind="settings",
        panels=(PanelColumns(LOGITS_GC), PanelColumns(GC), PanelColumns("test_accuracy")),
    ),
    Figure(
        name="complexity-training",
        title="Geometric complexity from initialisation to end",
        caption="",
        kind="training",
        panels=(PanelColumns(LOGITS_GC), PanelColumns(GC), PanelColumns("train_loss")),
    ),
    Figure(
        name="complexity-capacity",
        title="Test error against geometric complexity over capacities",
        caption="",
        kind="points",
        panels=(PanelColumns(TEST_ERROR, LOGITS_GC), PanelColumns(TEST_LOSS, LOGITS_GC)),
    ),
)
