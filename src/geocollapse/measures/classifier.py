"""The model's own classifier, alone and beside the class means."""

from __future__ import annotations

from geocollapse.measures.measure import Measure

CLASSIFIER = (
    Measure(
        name="accuracy",
        label="accuracy",
        short="accuracy",
        unit="share",
        better="higher",
        read_as="of the model's own classifier",
        caution="A training accuracy if the model was trained on these examples.",
        of_classifier=True,
    ),
    Measure(
        name="nc2_weight_equinorm",
        label="NC2 equinorm of the classifier",
        short="NC2 weight norms",
        better="lower",
        read_as="0: rows of equal length",
        caution="Rows are not centred: a constant row moves it and not the softmax.",
        of_classifier=True,
    ),
    Measure(
        name="nc2_weight_equiangular",
        label="NC2 equiangularity of the classifier",
        short="NC2 weight angles",
        better="lower",
        read_as="0: equal angles of the rows",
        caution="Rows are not centred: a constant row moves it and not the softmax.",
        of_classifier=True,
    ),
    Measure(
        name="nc2_weight_max_angle",
        label="NC2 maximal angle of the classifier",
        short="NC2 weight maximal angle",
        better="lower",
        read_as="0: the rows are a simplex",
        caution="Rows are not centred: a constant row moves it and not the softmax.",
        of_classifier=True,
    ),
    Measure(
        name="nc3",
        label="NC3",
        short="NC3",
        better="lower",
        read_as="classifier against class means, 0 to 2",
        caution="A constant row added to the classifier changes it, and not the softmax.",
        of_classifier=True,
    ),
    Measure(
        name="nc3_squared",
        label="NC3 squared",
        short="NC3 squared",
        better="lower",
        read_as="the other convention in use, 0 to 4",
        caution="Some papers and code call this number NC3.",
        of_classifier=True,
    ),
    Measure(
        name="self_duality_gram",
        label="self-duality of the Gram matrix",
        short="self-duality",
        better="lower",
        read_as="W M^T against a simplex, 0 to 2",
        caution="Some code calls this NC3; it is another quantity.",
        of_classifier=True,
    ),
    Measure(
        name="nc4",
        label="NC4",
        short="NC4",
        unit="share",
        better="lower",
        read_as="disagreement with the nearest mean",
        caution="Near 0 also for a network that is wrong in the same way as the nearest mean.",
        of_classifier=True,
    ),
)
