"""The claims on two tasks in turn, with margins and signs that are fixed before any run."""

from __future__ import annotations

from geocollapse.papers.claims import Claim, Figure, PanelColumns

LEAST_COSINE = 0.9  # of order effect and bracket, at one step
STUDY = "order_effect.steps"  # of the columns; the number of steps follows
ALL_STEPS = "*"

_RHO = "rank correlation over the records of a run, mean over runs"
_PLAIN_STEPS = (
    "The steps are full-batch gradient descent on fixed examples, from the parameters of a record: "
    "batches, momentum and penalties of the run play no part in them."
)
_AVERAGE = "One pair of tasks can be against the average: read the lowest pair in the remark."
_CORRECTED = (
    "The correction for several verdicts, and Fisher's z, were added after the first results were "
    "seen; signs and margins were not changed."
)
_ONE_STEP = (
    "At one step of a small rate the agreement is arithmetic: it shows that the rate is small. "
    "Many steps are the test."
)


def _column(name: str) -> str:
    """The columns of a measure after any number of steps."""
    return f"{STUDY}.{ALL_STEPS}.{name}"


ORDER_EFFECT = Claim(
    name="bracket-order-effect",
    statement=(
        "The Lie bracket of two tasks predicts how far apart both orders of training end: over the "
        "records of a run, the predicted and the measured distance are correlated, on average over "
        "pairs of tasks."
    ),
    judged_by="threshold",
    effect=_RHO,
    figures=("order-effect",),
    cautions=(
        _ONE_STEP,
        "Over different numbers of steps both sides grow as (m h)^2, so that the correlation over "
        "all of them is strong by arithmetic; those at one number of steps are harder.",
        "Both sides also grow with the gradients, which change through training: the remark has "
        "what the product of the two gradient norms reaches by itself.",
        _AVERAGE,
        _PLAIN_STEPS,
        _CORRECTED,
    ),
    pairs={_column("predicted_norm"): "bracket, order effect over all m"},
)

DIRECTION = Claim(
    name="bracket-direction",
    statement=(
        f"At one step the order effect has the direction of the bracket, with a cosine above "
        f"{LEAST_COSINE:g}; the cosine falls with the number of steps."
    ),
    judged_by="threshold",
    effect="cosine",
    figures=("order-effect", "order-cosine"),
    cautions=(
        "As the rate goes to 0 the cosine at one step goes to 1: a high one says that the rate is "
        "small. The finding is how fast it falls with the steps.",
        "The Hessian of ReLU and max-pooling misses their kinks, and steps across them can be most "
        "of the order effect: the recipes take tanh.",
        _PLAIN_STEPS,
        _CORRECTED,
    ),
    pairs={"first": "cosine at one step", "fall": "fall of the cosine with m"},
)

WHICH_ORDER = Claim(
    name="bracket-which-order",
    statement=(
        "The bracket predicts in which order task 1, and both tasks together, end with the higher "
        "loss: over the records of a run, predicted and measured differences are correlated, on "
        "average over pairs of tasks."
    ),
    judged_by="threshold",
    effect=_RHO,
    figures=("order-loss",),
    cautions=(
        _ONE_STEP,
        "After many steps the task that was trained last has the lower loss, whatever the bracket "
        "says: read how often the sign is right beside how common the commoner sign is.",
        _AVERAGE,
        _PLAIN_STEPS,
        _CORRECTED,
    ),
)

FORGETTING = Claim(
    name="bracket-forgetting",
    statement=(
        "The part of the bracket predicts how much of task 1 is forgotten while the other task is "
        "trained: over the records of a run, it is correlated with the rise of the loss of task 1, "
        "on average over pairs of tasks."
    ),
    judged_by="threshold",
    effect=_RHO,
    figures=("order-forgetting",),
    cautions=(
        "Forgetting is of first order in m h, the bracket of second: a correlation may come from "
        "what both share, such as the size of the gradients. The first order stands beside it.",
        "Once task 1 is learned its gradient is small, and with it the bracket along it: what is "
        "then forgotten is the curvature of task 1 along the steps of the other.",
        "Both tasks share all outputs: networks with a head for each task forget less.",
        _AVERAGE,
        _PLAIN_STEPS,
        _CORRECTED,
    ),
)

CLAIMS = (ORDER_EFFECT, DIRECTION, WHICH_ORDER, FORGETTING)

FIGURES = (
    Figure(
        name="order-effect",
        title="The difference between both orders, measured and predicted by the Lie bracket",
        caption="m: steps on each task.",
        kind="records",
        panels=(
            PanelColumns(_column("norm"), _column("predicted_norm"), is_equality=True),
            PanelColumns(_column("cosine"), _column("predicted_norm")),
        ),
    ),
    Figure(
        name="order-cosine",
        title="The direction of the order effect through training on task 1",
        caption="m: steps on each task.",
        kind="training",
        panels=(PanelColumns(_column("cosine"), level=1.0, level_name="as the bracket"),),
    ),
    Figure(
        name="order-loss",
        title="What task 1 loses by coming first",
        caption="Gap: its loss after both tasks in this order, minus that in the other order. m: "
        "steps on each task.",
        kind="records",
        panels=(
            PanelColumns(_column("gap"), _column("predicted_gap"), is_equality=True, is_apart=True),
        ),
    ),
    Figure(
        name="order-forgetting",
        title="What task 1 loses while the other task is trained",
        caption="m: steps on each task. Second order: first order, curvature and bracket.",
        kind="records",
        panels=(
            PanelColumns(
                _column("forgetting"),
                _column("forgetting_second_order"),
                is_equality=True,
                is_apart=True,
            ),
        ),
    ),
)
