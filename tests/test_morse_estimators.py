"""Morse networks in the form of scikit-learn."""

import numpy as np
import pytest
from sklearn.datasets import make_moons
from sklearn.utils.estimator_checks import parametrize_with_checks

from geocollapse.integrations.scikit_learn import MorseDensity, MorseProbabilities

QUICK = {"n_steps": 200, "learning_rate": 1e-2, "random_state": 0}


@pytest.mark.filterwarnings("ignore::geocollapse.estimate.GeocollapseWarning")  # tiny data sets
@parametrize_with_checks([MorseDensity(**QUICK), MorseProbabilities(**QUICK)])
def test_the_checks_of_scikit_learn(estimator, check):
    check(estimator)


def test_predictions_follow_the_threshold():
    x, _ = make_moons(400, noise=0.05, random_state=0)
    found = MorseDensity(contamination=0.1, **QUICK).fit(x)
    scores = found.score_samples(x)
    assert (scores <= 0.0).all()
    np.testing.assert_allclose(found.decision_function(x), scores - found.offset_)
    assert (found.predict(x) == -1).mean() == pytest.approx(0.1, abs=0.01)
    assert (found.predict([[0.5, 3.0], [-3.0, -3.0]]) == -1).all()


def test_the_classifier_says_which_class_and_how_far():
    x, y = make_moons(400, noise=0.05, random_state=0)
    names = np.array(["upper", "lower"])[y]
    found = MorseProbabilities(**QUICK).fit(x, names)
    p = found.predict_proba(x)
    np.testing.assert_allclose(p.sum(axis=1), 1.0)
    assert found.classes_.tolist() == ["lower", "upper"]
    assert found.score(x, names) > 0.98
    assert found.score_samples([[0.5, 6.0]])[0] < found.score_samples(x).min()


def test_one_class_and_wrong_settings_are_refused():
    x = np.random.default_rng(0).normal(size=(30, 2))
    with pytest.raises(ValueError, match="y: expected at least 2 classes, got one class"):
        MorseProbabilities(**QUICK).fit(x, np.zeros(30))
    with pytest.raises(ValueError, match="contamination: expected a share"):
        MorseDensity(contamination=0.0, **QUICK).fit(x)
    with pytest.raises(ValueError, match="weight: expected a positive number"):
        MorseDensity(weight=-1.0, **QUICK).fit(x)
    with pytest.raises(ValueError, match="scale: expected a positive number"):
        MorseProbabilities(scale=0.0, **QUICK).fit(x, x[:, 0] > 0)
