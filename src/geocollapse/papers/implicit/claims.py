"""The claims on implicit gradient regularisation, with signs that are fixed before any run."""

from __future__ import annotations

from geocollapse.papers.claims import Claim, Figure, PanelColumns

GRADIENT_NORM = Claim(
    name="implicit-gradient-norm",
    statement=(
        "At one training loss, a larger rate at a fixed batch size lowers the gradient norm of "
        "mini-batches, and with a smaller batch at a fixed rate lowers geometric complexity; at "
        "the end of training the larger rate has the higher test accuracy."
    ),
    judged_by="trend",
    effect="mean rho within blocks",
    figures=("implicit-settings", "implicit-training"),
    cautions=(
        "Gradient norms fall with the loss: only at one loss do they say what the rate does.",
        "The gradient norm of mini-batches depends on their size by sampling alone, so that it is "
        "compared at one batch size.",
        "Geometric complexity is not in these papers: its part is a question of this project.",
    ),
)

RATE_OVER_BATCH = Claim(
    name="implicit-rate-over-batch",
    statement=(
        "The ratio of rate and batch size says what both do: settings of one ratio differ less in "
        "geometric complexity and test accuracy than settings of different ratios."
    ),
    judged_by="trend",
    effect="share of the variance between ratios",
    figures=("implicit-settings",),
    cautions=(
        "Any effect of rate and batch alone is also one of their ratio, in part: the p is against "
        "no effect at all, and the share says how much is left.",
        "Ratios at the corners of the grid have one setting.",
    ),
    pairs={"rate / batch": "rate/batch"},
)

EXPLICIT = Claim(
    name="explicit-gradient-norm",
    statement=(
        "An explicit penalty on the gradient norm, at a small rate, lowers the gradient norm of "
        "mini-batches and raises test accuracy: it recovers part of what a large rate gains."
    ),
    judged_by="trend",
    effect="mean rho within blocks",
    figures=("implicit-settings", "implicit-training"),
    cautions=(
        "A weight of h/4 is the implicit regulariser of a rate h, up to higher orders.",
        "A gain that the large rate does not have either cannot be recovered: read the remark.",
        "The penalty is on the norm of whole batches, the measure on fixed ones.",
    ),
    pairs={"penalty": "gradient penalty, test accuracy"},
)

CLAIMS = (GRADIENT_NORM, RATE_OVER_BATCH, EXPLICIT)

FIGURES = (
    Figure(
        name="implicit-training",
        title="Gradient norm of mini-batches and geometric complexity",
        caption="",
        kind="training",
        panels=(
            PanelColumns("dynamics.mini_batch_norm"),
            PanelColumns("dynamics.mini_batch_variance"),
            PanelColumns("source.geometric_complexity.value"),
            PanelColumns("test_accuracy"),
        ),
    ),
    Figure(
        name="implicit-settings",
        title="What rate, batch size and an explicit penalty do",
        caption="",
        kind="settings",
        panels=(
            PanelColumns("dynamics.mini_batch_norm"),
            PanelColumns("source.geometric_complexity.value"),
            PanelColumns("test_accuracy"),
        ),
    ),
)
