"""The claims of Dherin and Rosca (2024), with margins and signs that are fixed before any run."""

from __future__ import annotations

from geocollapse.papers.claims import Claim, Figure, PanelColumns

STEPS_FACTOR = 1.25  # of the steps of a rival at the best rate of its grid
ACCURACY_MARGIN = 0.02  # of test accuracy below the rival at that rate

LINEAR_FALL = Claim(
    name="corridor-linear-fall",
    statement=(
        "Where training is nearly a corridor its loss falls nearly linearly: over the records of a "
        "run, a small drift ratio goes with a small linearity defect."
    ),
    judged_by="threshold",
    effect="rank correlation over the records of a run, mean over runs",
    figures=("corridor-diagnostics",),
    cautions=(
        "To second order in the rate the defect is at most the drift ratio, so that a positive "
        "correlation is partly arithmetic: it shows that training stays where this order rules.",
        "Both change with training time; only the seeds count as independent here.",
        "The diagnostics are of a fixed subset in evaluation mode, the steps of mini-batches.",
    ),
    pairs={"dynamics.drift_ratio": "drift ratio, linearity defect"},
)

CORRIDOR_STEPS = Claim(
    name="corridor-steps",
    statement=(
        "The corridor learning rate, which is not tuned, reaches the training accuracy of the "
        f"recipe in at most {STEPS_FACTOR:g} times the steps of SGD, and of ALI-G, at the best "
        "rate of a grid."
    ),
    judged_by="threshold",
    effect="ratio of steps",
    figures=("corridor-steps",),
    cautions=(
        "The best rate is chosen by these same runs, in favour of the rival.",
        "ALI-G without a largest rate is the corridor rate: here it is one with a largest rate.",
        "Accuracy is looked at once an epoch: few epochs to the goal make coarse steps.",
        "A cosine schedule that is not at its end when the goal is reached has hardly decayed.",
        "A step of the corridor rate also takes the norm of the gradient: read the time beside.",
    ),
)

CORRIDOR_TIME = Claim(
    name="corridor-time",
    statement=(
        "The corridor learning rate reaches the training accuracy of the recipe in at most "
        f"{STEPS_FACTOR:g} times the time of SGD, and of ALI-G, at the best rate of a grid."
    ),
    judged_by="threshold",
    effect="ratio of training seconds",
    figures=("corridor-steps",),
    cautions=(
        "The seconds are those of a step, mean over the run, times the steps to the goal.",
        "Runs share the machine with others, so that the seconds of a step differ by run.",
    ),
)

CORRIDOR_ACCURACY = Claim(
    name="corridor-test-accuracy",
    statement=(
        "At the end of training the corridor learning rate has a test accuracy at most "
        f"{100 * ACCURACY_MARGIN:g} points below SGD, and ALI-G, at the best rate."
    ),
    judged_by="threshold",
    effect="difference in test accuracy",
    figures=("corridor-steps",),
    cautions=(
        "The best rate is the one with the fewest steps, not with the best test accuracy.",
        "Runs end after twice the steps to the goal: faster ones are not trained for as long.",
    ),
)

CLAIMS = (LINEAR_FALL, CORRIDOR_STEPS, CORRIDOR_TIME, CORRIDOR_ACCURACY)

FIGURES = (
    Figure(
        name="corridor-diagnostics",
        title="How near training is to a corridor",
        caption="Drift ratio and linearity defect are 0 in a corridor, the cosine of gradients "
        "before and after a step is 1. The gradient norm is the speed of the gradient flow.",
        kind="training",
        panels=(
            PanelColumns("dynamics.drift_ratio"),
            PanelColumns("dynamics.linearity_defect"),
            PanelColumns("dynamics.straightness", level=1.0, level_name="straight"),
            PanelColumns("dynamics.learning_rate"),
            PanelColumns("dynamics.gradient_norm"),
        ),
    ),
    Figure(
        name="corridor-steps",
        title="Steps to the goal against test accuracy and geometric complexity",
        caption="Steps until the training accuracy of the recipe is reached.",
        kind="points",
        panels=(
            PanelColumns("test_accuracy", x="stop_step"),
            PanelColumns("source.geometric_complexity.value", x="stop_step"),
        ),
        over_folder=True,
    ),
)
