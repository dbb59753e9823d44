"""The claims on Morse networks as detectors, with signs and a margin.

They were fixed when ResNet-20 was known, and before the other networks were looked at: it was also
the one on which the defaults of the detector were chosen. So ResNet-20 does not count.
"""

from __future__ import annotations

from geocollapse.papers.claims import Claim

LABELLED = "Morse, with labels"
UNLABELLED = "Morse, without labels"
RIVALS = ("kNN", "ViM", "MSP")

NEAR = "cifar100"
IMAGES = ("fashion-mnist", "mnist")
NOISE = ("gaussian", "uniform")
SETS = (NEAR, *IMAGES, *NOISE)

CHOSEN_ON = "resnet20"
AUROC_MARGIN = 0.01  # below a rival that still counts as at least as good

_ONE_FAMILY = (
    "The networks are of one family, each trained once: nothing here says how this goes on others."
)
_SAME_IMAGES = (
    "All networks are scored on the same 10,000 test images of each set, whose sampling is not in "
    "the interval."
)

NEAR_AND_FAR = Claim(
    name="morse-near-and-far",
    statement=(
        "Far data are easier to tell than near data: a Morse network with labels has a higher "
        "AUROC on other kinds of images, and on noise, than on CIFAR-100."
    ),
    judged_by="threshold",
    effect="difference in AUROC",
    figures=(),
    cautions=(
        _ONE_FAMILY,
        _SAME_IMAGES,
        "Near and far are words for what the images show, not distances that were measured.",
    ),
)

LABELS = Claim(
    name="morse-labels",
    statement="With labels the AUROC on near data is higher than without.",
    judged_by="threshold",
    effect="difference in AUROC",
    figures=(),
    cautions=(
        _ONE_FAMILY,
        _SAME_IMAGES,
        "The two differ in more than labels: without them the map has two hidden layers of 64, "
        "with them it is linear.",
    ),
)

AS_GOOD = Claim(
    name="morse-as-good",
    statement=(
        "A Morse network with labels is at least as good as k nearest neighbours, ViM and the "
        f"largest softmax probability: its mean AUROC over the five sets is at most {AUROC_MARGIN} "
        "lower."
    ),
    judged_by="threshold",
    effect="difference in AUROC",
    figures=(),
    cautions=(
        _ONE_FAMILY,
        _SAME_IMAGES,
        "A mean over sets hides on which of them a detector is better.",
        "The rivals have the defaults of their libraries, the Morse network those that were chosen "
        "on ResNet-20.",
    ),
)

CLAIMS = (NEAR_AND_FAR, LABELS, AS_GOOD)
