"""The claims on geometric complexity over the squared margin; signs come from the recipe."""

from __future__ import annotations

from geocollapse.experiments.results.tables import LOGITS_GC
from geocollapse.papers.claims import Claim, Figure, PanelColumns

MARGIN_GC = "margin.margin_complexity.value"
GAP = "margin.gap"
EXCESS = "margin.excess_risk"

GENERALISATION = Claim(
    name="margin-generalisation",
    statement=(
        "Networks with higher geometric complexity of the logits over the squared margin have a "
        "larger generalisation gap and a larger excess risk."
    ),
    judged_by="correlation",
    effect="Spearman's rho",
    figures=("margin-points",),
    cautions=(
        "Plain GC of the logits grows with their scale, which goes on growing when all examples "
        "are right: only GC over the squared margin can be compared between runs.",
        "The gap is the test error itself where the training error is 0.",
        "Correlations over shares of random labels are strong for anything that says how hard the "
        "labels are to fit; those over learning rates are the harder test.",
        "A bound speaks about the training sample behind the margins: on test data, or with gamma "
        "of another quantile, it is another number.",
    ),
)

RANDOM_LABELS = Claim(
    name="margin-random-labels",
    statement=(
        "The larger the share of random labels that a network has memorised, the higher is "
        "geometric complexity over the squared margin, and with it gap and excess risk."
    ),
    judged_by="trend",
    effect="mean rho within blocks",
    figures=("margin-settings", "margin-training"),
    cautions=(
        "That gap and excess risk rise with random labels is arithmetic: the labels of the test "
        "examples are true ones. Only the complexity is a finding.",
        "More random labels take more steps to memorise; runs that did not are left out.",
    ),
)

CLAIMS = (GENERALISATION, RANDOM_LABELS)

FIGURES = (
    Figure(
        name="margin-points",
        title="Gap and excess risk against geometric complexity of the logits",
        caption="GC of the logits, then GC over the squared margin.",
        kind="points",
        panels=(
            PanelColumns(GAP, LOGITS_GC),
            PanelColumns(GAP, MARGIN_GC),
            PanelColumns(EXCESS, LOGITS_GC),
            PanelColumns(EXCESS, MARGIN_GC),
        ),
    ),
    Figure(
        name="margin-settings",
        title="What the settings do to margin, complexity and gap",
        caption="",
        kind="settings",
        panels=(PanelColumns(MARGIN_GC), PanelColumns(LOGITS_GC), PanelColumns(GAP)),
    ),
    Figure(
        name="margin-training",
        title="Complexity and margin through training",
        caption="GC over the squared margin is undefined until 90 % of the examples are right.",
        kind="training",
        panels=(
            PanelColumns(MARGIN_GC),
            PanelColumns(LOGITS_GC),
            PanelColumns("margin.gamma"),
            PanelColumns("margin.test_error"),
        ),
    ),
)
