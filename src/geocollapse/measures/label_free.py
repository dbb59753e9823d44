"""Baselines that need no labels."""

from __future__ import annotations

from geocollapse.measures.measure import Measure

LABEL_FREE = (
    Measure(
        name="label_free.rankme",
        label="RankMe",
        short="RankMe",
        better="higher",
        invariant_to=("rotation", "feature scale", "input scale", "input size"),
        read_as="directions in use, of at most {max_rank}",
        caution="Not centred: a common offset counts as a direction; grows with n until n >> p.",
    ),
    Measure(
        name="label_free.effective_rank",
        label="effective rank",
        short="effective rank",
        read_as="the same of the covariance",
        caution="Some code calls this RankMe; they can differ by a factor of two and more.",
    ),
    Measure(
        name="label_free.alpha_req",
        label="alpha-ReQ",
        short="alpha-ReQ",
        read_as="eigenvalue i of it falls as i^-alpha",
        caution="Depends on the range of the fit, which exists even where there is no power law.",
    ),
    Measure(
        name="label_free.feature_norm",
        label="feature norm",
        short="feature norm",
        unit="feature unit",
        better="higher",
        invariant_to=("rotation", "input scale", "input size"),
        read_as="mean length of a feature vector",
        caution="A scale, which the next layer's weights can undo; GC moves with its square.",
    ),
)
