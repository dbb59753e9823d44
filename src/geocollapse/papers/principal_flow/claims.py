"""The claims on the edge of stability, with margins and signs that are fixed before any run."""

from __future__ import annotations

from geocollapse.papers.claims import Claim, Figure, PanelColumns

LOWEST_PEAK = 0.9  # of sharpness/edge: it is reached
STAYS = (0.8, 1.25)  # of sharpness/edge, once it is reached

REACHES_EDGE = Claim(
    name="sharpness-reaches-edge",
    statement=(
        "Full-batch gradient descent of a constant rate h raises the sharpness to the edge of "
        "stability 2/h, where it stays until the training accuracy of the recipe is reached."
    ),
    judged_by="threshold",
    effect="sharpness / (2/h)",
    figures=("edge-training",),
    cautions=(
        "Sharpness is taken at records only: a peak between two of them is not seen.",
        "A small rate has a far edge, which a short training does not reach.",
        "With cross-entropy the sharpness falls again once the examples are fitted.",
    ),
    pairs={"peak": "reaches 2/h", "middle": "stays at 2/h"},
)

COMPLEXITY_AT_EDGE = Claim(
    name="edge-complexity",
    statement=(
        "From the first record at the edge of stability to the stopping rule, geometric complexity "
        "falls at every rate (a question of this project)."
    ),
    judged_by="threshold",
    effect="GC at the stop / GC when the edge is reached",
    figures=("edge-training",),
    cautions=(
        "The training loss falls over the same steps: read GC at one loss beside it.",
        "The edge is seen at records only, so that the first one may come late.",
    ),
    pairs={"growth": "GC at the edge"},
)

RATE_AND_SHARPNESS = Claim(
    name="edge-rate",
    statement=(
        "A larger rate, whose edge is lower, lowers the largest sharpness of training, and "
        "geometric complexity at its end (the second is a question of this project)."
    ),
    judged_by="trend",
    effect="mean rho within blocks",
    figures=("edge-settings", "edge-training"),
    cautions=(
        "A larger rate also trains further in as many steps: read the repetition at matched loss.",
        "A fall of geometric complexity beside the sharpness does not say which moves which.",
    ),
)

DAL_POWER = Claim(
    name="dal-power",
    statement=(
        "In drift-adjusted learning a smaller power trades stability for test accuracy: the "
        "training loss rises more often, and test accuracy is higher."
    ),
    judged_by="trend",
    effect="mean rho within blocks",
    figures=("edge-settings", "edge-training"),
    cautions=(
        "Rises are counted between records, not between steps.",
        "Runs that did not converge count here: a power that does not train has a low accuracy. "
        "This was decided after a pilot of one seed, in which the power 0.5 did not converge.",
        "Where ||H g^|| is below 1 a smaller power has the smaller rate: the trade turns round.",
        "The limit of the rate, 5 by default, holds the smallest powers.",
    ),
)

CLAIMS = (REACHES_EDGE, COMPLEXITY_AT_EDGE, RATE_AND_SHARPNESS, DAL_POWER)

FIGURES = (
    Figure(
        name="edge-training",
        title="Sharpness at the edge of stability, and geometric complexity",
        caption="At a ratio of 1 the sharpness is 2/h.",
        kind="training",
        panels=(
            PanelColumns("dynamics.edge_ratio", level=1.0, level_name="edge of stability"),
            PanelColumns("dynamics.sharpness"),
            PanelColumns("source.geometric_complexity.value"),
            PanelColumns("train_loss"),
        ),
    ),
    Figure(
        name="edge-settings",
        title="What the rate and the power do",
        caption="",
        kind="settings",
        panels=(
            PanelColumns("dynamics.sharpness"),
            PanelColumns("source.geometric_complexity.value"),
            PanelColumns("test_accuracy"),
        ),
    ),
)
