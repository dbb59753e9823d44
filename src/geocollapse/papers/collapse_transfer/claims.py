"""The claims of Munn, Dherin, Gonzalvo (2024), in published order; cautions: definitions 9."""

from __future__ import annotations

from geocollapse.papers.claims import Claim

COMPLEXITY_COLLAPSE = Claim(
    name="complexity-collapse",
    statement=(
        "Lower geometric complexity goes with lower geometric collapse and with lower neural "
        "collapse."
    ),
    judged_by="correlation",
    effect="Spearman's rho",
    figures=("gc-and-collapse",),
    cautions=(
        "GC depends on input and feature scale: compare it at one preprocessing, width and "
        "normalisation only.",
        "GC is the numerator of GCol, so part of their correlation is arithmetic; the note gives "
        "the null.",
        "NC with few samples a class is too small; the corrected value is slightly too large.",
        "NC ≤ c GCol is true by construction with c from the same features.",
    ),
)

TRAINING_CHOICES = Claim(
    name="training-choices",
    statement=(
        "A larger learning rate, a smaller batch, stronger L2 and an explicit GC penalty each "
        "lower geometric complexity, and with it geometric collapse and neural collapse."
    ),
    judged_by="correlation",
    effect="Spearman's rho",
    figures=("settings",),
    cautions=(
        "The swept setting moves training loss, feature norm and GC together: read the repetitions "
        "at matched loss and per feature variance beside the main verdict.",
        "A slow rate or a large batch leaves a run less trained; runs that did not converge are "
        "left out.",
        "Few settings decide only clear orders: five in perfect order have p = 1/120.",
    ),
)

TRANSFER = Claim(
    name="transfer",
    statement=(
        "Lower source geometric complexity goes with lower target neural collapse and higher "
        "5-shot accuracy."
    ),
    judged_by="correlation",
    effect="Spearman's rho",
    figures=("transfer", "target"),
    cautions=(
        "Source NC can have the opposite sign to target NC: both are shown.",
        "Many episodes make the accuracy's interval narrow, not the conclusion general: other "
        "classes and seeds may differ.",
    ),
)

POINCARE_BOUND = Claim(
    name="poincare-bound",
    statement=(
        "One Poincaré constant serves all runs, and the nearest-mean bound lies above the measured "
        "error and is not vacuous late in training."
    ),
    judged_by="threshold",
    effect="Poincaré ratio, largest / smallest",
    figures=("poincare-ratio", "bound"),
    cautions=(
        "A bound above the error is no evidence for anything but the code; a vacuous one says "
        "nothing about the error.",
        "The empirical ratio is only a lower bound on a Poincaré constant; none is known for real "
        "data.",
    ),
    pairs={"run": "Poincaré ratio over runs", "nearest-mean bound": "bound, error"},
)

SAMPLING = Claim(
    name="sampling",
    statement=(
        "Estimates of geometric complexity from few examples, few outputs or a masked Jacobian "
        "agree with the full value."
    ),
    judged_by="methods",
    effect="coverage",
    figures=("sampling",),
    cautions=(
        "A few inputs can carry the mean of GC: with heavy tails and 200 examples a 95 % interval "
        "covers 92 % or less.",
        "With one probe an error bar is conservative; with one probe for a whole batch it is "
        "meaningless.",
    ),
)

CLAIMS = (COMPLEXITY_COLLAPSE, TRAINING_CHOICES, TRANSFER, POINCARE_BOUND, SAMPLING)
