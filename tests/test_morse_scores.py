"""Scores of detection, their intervals, and calibration."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import ndtr, ndtri
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from geocollapse import morse

VALUES = ("auroc", "fpr95", "aupr_in", "aupr_out")


def normals(n, m, shift, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=n), rng.normal(shift, size=m)


def by_library(s_in, s_out):
    """The same numbers by scikit-learn."""
    scores = np.concatenate([s_in, s_out])
    is_out = np.arange(len(scores)) >= len(s_in)
    fpr, tpr, _ = roc_curve(~is_out, -scores, drop_intermediate=False)
    return {
        "auroc": roc_auc_score(is_out, scores),
        "fpr95": fpr[np.argmax(tpr >= 0.95)],
        "aupr_in": average_precision_score(~is_out, -scores),
        "aupr_out": average_precision_score(is_out, scores),
    }


@given(seed=st.integers(0, 999), n=st.integers(2, 60), m=st.integers(2, 60), ties=st.booleans())
def test_the_values_are_those_of_scikit_learn_also_with_ties(seed, n, m, ties):
    s_in, s_out = normals(n, m, 1.0, seed)
    if ties:
        s_in, s_out = s_in.round(), s_out.round()
    found = morse.detection(s_in, s_out, n_resamples=2)
    for name, value in by_library(s_in, s_out).items():
        assert getattr(found, name).value == pytest.approx(value, abs=1e-12), name


def test_an_increasing_transformation_changes_nothing():
    s_in, s_out = normals(40, 30, 1.0)
    assert (
        morse.detection(s_in, s_out).to_dict()
        == morse.detection(np.exp(s_in), np.exp(s_out)).to_dict()
    )


def test_swapped_samples_mirror_the_auroc():
    s_in, s_out = normals(40, 30, 1.0)
    found = morse.detection(s_in, s_out)
    mirrored = morse.detection(s_out, s_in)
    assert mirrored.auroc.value == pytest.approx(1.0 - found.auroc.value)
    assert mirrored.auroc.stderr == pytest.approx(found.auroc.stderr)


def test_samples_that_are_told_apart_have_an_interval_that_is_no_point():
    found = morse.detection(np.arange(50.0), 100.0 + np.arange(60.0))
    assert found.auroc.value == 1.0
    assert found.fpr95.value == 0.0
    assert 0.9 < found.auroc.interval()[0] < 1.0
    assert 0.0 < found.fpr95.interval()[1] < 0.1


def test_delongs_error_is_that_of_many_draws():
    values = [morse.detection(*normals(80, 60, 1.0, seed)).auroc for seed in range(200)]
    spread = np.std([value.value for value in values])
    assert np.mean([value.stderr for value in values]) == pytest.approx(spread, rel=0.15)


@pytest.mark.parametrize("shift", [0.3, 2.0])
def test_the_intervals_cover_what_further_data_give(shift):
    """Of 500 intervals at 95 %; 93.5 to 95.7 % of 1,500 on the same draws."""
    truth = {
        "auroc": ndtr(shift / math.sqrt(2.0)),
        "fpr95": ndtr(ndtri(0.95) - shift),
        "aupr_in": _area_under_precision(shift),
        "aupr_out": _area_under_precision(shift),
    }
    covered = dict.fromkeys(VALUES, 0)
    for seed in range(500):
        found = morse.detection(*normals(250, 250, shift, 10_000 + seed), seed=seed)
        for name in VALUES:
            low, high = getattr(found, name).interval()
            covered[name] += low <= truth[name] <= high
    assert all(0.92 <= count / 500 <= 0.98 for count in covered.values()), covered


def _area_under_precision(shift):
    """The area under precision and recall of N(0, 1) against N(shift, 1), as many of each."""
    recall = (np.arange(200_000) + 0.5) / 200_000
    threshold = ndtri(1.0 - recall) + shift
    return float(np.mean(recall / (recall + 1.0 - ndtr(threshold))))


def test_scores_are_checked():
    good = np.arange(5.0)
    with pytest.raises(ValueError, match=r"in_scores: expected at least 2 scores \(n,\)"):
        morse.detection(good[:1], good)
    with pytest.raises(ValueError, match=r"out_scores: expected at least 2 scores"):
        morse.detection(good, good[:, None])
    with pytest.raises(ValueError, match="out_scores: expected finite numbers"):
        morse.detection(good, np.array([0.0, math.nan]))
    with pytest.raises(ValueError, match="n_resamples: expected at least 2"):
        morse.detection(good, good, n_resamples=1)


# calibration


def test_the_calibration_error_is_the_mean_gap_of_the_bins():
    confidence = torch.tensor([0.61, 0.63, 0.93, 0.95, 0.97])
    p = torch.stack([confidence, 1.0 - confidence], dim=1)
    found = morse.reliability(p, torch.tensor([0, 1, 0, 0, 1]), n_bins=10)
    assert found.counts.tolist() == [2, 3]
    assert found.accuracy.tolist() == pytest.approx([0.5, 2 / 3])
    assert found.confidence.tolist() == pytest.approx([0.62, 0.95])
    assert found.ece == pytest.approx((2 * 0.12 + 3 * (0.95 - 2 / 3)) / 5)


def test_labels_drawn_from_the_probabilities_are_calibrated_and_their_temperature_breaks_it():
    generator = torch.Generator().manual_seed(0)
    logits = 2.0 * torch.randn(20_000, 5, generator=generator)
    labels = torch.multinomial(logits.softmax(dim=1), 1, generator=generator)[:, 0]
    assert morse.reliability(logits.softmax(dim=1), labels).ece < 0.015
    tempered = morse.tempered_logits(logits, torch.full((20_000,), -1.0))
    assert morse.reliability(tempered.softmax(dim=1), labels).ece > 0.1


def test_what_is_not_calibrated_by_definition_is_refused():
    with pytest.raises(ValueError, match=r"probabilities: expected rows \(n, C\) that sum to 1"):
        morse.reliability(torch.tensor([[2.0, 1.0]]), torch.tensor([0]))
    with pytest.raises(ValueError, match=r"log_density: expected \(2,\)"):
        morse.tempered_logits(torch.zeros(2, 3), torch.zeros(3))


@pytest.mark.parametrize("labels", [[0, 2], [-1, 0], []])
def test_reliability_refuses_labels_that_are_no_columns(labels):
    p = torch.full((len(labels), 2), 0.5)
    with pytest.raises(ValueError, match="labels: expected columns 0 to 1 of the probabilities"):
        morse.reliability(p, torch.tensor(labels, dtype=torch.int64))
