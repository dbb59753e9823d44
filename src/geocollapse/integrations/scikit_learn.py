"""Morse networks as scikit-learn estimators: an outlier detector and a classifier."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, OutlierMixin
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from geocollapse.arrays import as_tensor
from geocollapse.morse import (
    DenseMap,
    FitSettings,
    MorseClassifier,
    MorseNetwork,
    dense_map,
    outlier_scores,
)
from geocollapse.morse.kernels import KernelName
from geocollapse.morse.noise import NoiseName

Floats = NDArray[np.float64]


class _MorseEstimator(BaseEstimator):
    """The parameters that both estimators share; see ``MorseDensity``."""

    def __init__(
        self,
        kernel: KernelName = "gauss",
        scale: float = 1.0,
        *,
        hidden: Sequence[int] = (64, 64),
        noise: NoiseName = "uniform",
        weight: float = 1.0,
        n_steps: int = 1500,
        learning_rate: float = 1e-3,
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.kernel = kernel
        self.scale = scale
        self.hidden = hidden
        self.noise = noise
        self.weight = weight
        self.n_steps = n_steps
        self.learning_rate = learning_rate
        self.random_state = random_state

    def _checked(self, X: ArrayLike) -> torch.Tensor:
        check_is_fitted(self)
        return as_tensor("X", validate_data(self, X, reset=False, dtype=np.float64))

    def _settings(self) -> FitSettings:
        return FitSettings(n_steps=self.n_steps, learning_rate=self.learning_rate)

    def _map(self, x: torch.Tensor, n_outputs: int, seed: int) -> DenseMap:
        return dense_map(x.shape[1], n_outputs, hidden=self.hidden, like=x, seed=seed)

    def _seed(self) -> int:
        return int(check_random_state(self.random_state).randint(2**31 - 1))


class MorseDensity(OutlierMixin, _MorseEstimator):
    """Outlier detection by a Morse network on a dense map, in the form of scikit-learn.

    ``score_samples`` is log mu(x), at most 0, of the unnormalised density of ``MorseNetwork``.
    Outliers are the share ``contamination`` of the training data with the smallest, and what scores
    below them: ``decision_function`` is negative there and ``predict`` -1. Inputs are standardised.

    It passes ``check_estimator``.

    Source: Dherin et al. (2023).

    Args:
        kernel: see ``geocollapse.morse.kernel_exponent``.
        scale: lambda of the kernel.
        hidden: widths of the hidden layers of the map.
        n_outputs: features of the map.
        noise: ``uniform`` or ``gaussian``.
        weight: w of the noise.
        contamination: share of the training data below the threshold, in (0, 0.5].
        n_steps: of Adam, at most.
        learning_rate: of Adam.
        random_state: of weights, batches and noise.

    Attributes:
        network_: the fitted ``MorseNetwork``.
        offset_: the threshold of ``score_samples``.
        n_features_in_: width of the data.

    Examples:
        >>> x = np.random.default_rng(0).normal(size=(300, 2))
        >>> found = MorseDensity(random_state=0).fit(x)
        >>> found.predict([[0.0, 0.0], [9.0, 9.0]])
        array([ 1, -1])
    """

    def __init__(
        self,
        kernel: KernelName = "gauss",
        scale: float = 1.0,
        *,
        hidden: Sequence[int] = (64, 64),
        n_outputs: int = 16,
        noise: NoiseName = "uniform",
        weight: float = 1.0,
        contamination: float = 0.05,
        n_steps: int = 1500,
        learning_rate: float = 1e-3,
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        super().__init__(
            kernel,
            scale,
            hidden=hidden,
            noise=noise,
            weight=weight,
            n_steps=n_steps,
            learning_rate=learning_rate,
            random_state=random_state,
        )
        self.n_outputs = n_outputs
        self.contamination = contamination

    def fit(self, X: ArrayLike, y: object = None) -> Self:
        """Fit the density to X (n, p); y is ignored."""
        del y
        if not 0.0 < self.contamination <= 0.5:
            raise ValueError(
                f"contamination: expected a share in (0, 0.5], got {self.contamination}; do "
                f"contamination=0.05"
            )
        data = validate_data(self, X, dtype=np.float64, ensure_min_samples=2)
        x = as_tensor("X", data).float()
        seed = self._seed()
        map = self._map(x, self.n_outputs, seed)
        network = MorseNetwork(map, self.kernel, scale=self.scale)
        self.network_ = network.fit(
            x, noise=self.noise, weight=self.weight, seed=seed, settings=self._settings()
        ).eval()
        self.network_.double()  # scores of a row do not depend on the other rows to 1e-7
        self.offset_ = float(np.quantile(self.score_samples(X), self.contamination))
        return self

    def score_samples(self, X: ArrayLike) -> Floats:
        """log mu(x), larger on the data, (n,)."""
        return -outlier_scores(self.network_, self._checked(X)).numpy()

    def decision_function(self, X: ArrayLike) -> Floats:
        """``score_samples`` minus ``offset_``, negative for outliers, (n,)."""
        check_is_fitted(self)
        return self.score_samples(X) - self.offset_

    def predict(self, X: ArrayLike) -> NDArray[np.int64]:
        """1 for inliers and -1 for outliers, (n,)."""
        return np.where(self.decision_function(X) >= 0.0, 1, -1)


class MorseProbabilities(ClassifierMixin, _MorseEstimator):
    """Classification by a Morse network on a dense map, in the form of scikit-learn.

    ``predict_proba`` is the posterior of ``MorseClassifier``, and ``score_samples`` its unlabelled
    log density, by which inputs that are like no class are told. Inputs are standardised.

    It passes ``check_estimator``.

    Source: Dherin et al. (2023).

    Args:
        kernel: see ``geocollapse.morse.kernel_exponent``.
        scale: lambda of the kernel.
        hidden: widths of the hidden layers of the map.
        noise: ``uniform`` or ``gaussian``.
        weight: w of the noise.
        n_steps: of Adam, at most.
        learning_rate: of Adam.
        random_state: of weights, batches and noise.

    Attributes:
        network_: the fitted ``MorseClassifier``.
        classes_: the labels, in the order of the columns of ``predict_proba``.
        n_features_in_: width of the data.

    Examples:
        >>> x = np.random.default_rng(0).normal(size=(300, 2))
        >>> found = MorseProbabilities(random_state=0).fit(x, np.where(x[:, 0] > 0.0, "b", "a"))
        >>> found.predict([[-2.0, 0.0], [2.0, 0.0]]).tolist()
        ['a', 'b']
    """

    def __init__(
        self,
        kernel: KernelName = "gauss",
        scale: float = 10.0,
        *,
        hidden: Sequence[int] = (64, 64),
        noise: NoiseName = "uniform",
        weight: float = 1.0,
        n_steps: int = 1500,
        learning_rate: float = 1e-3,
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        super().__init__(
            kernel,
            scale,
            hidden=hidden,
            noise=noise,
            weight=weight,
            n_steps=n_steps,
            learning_rate=learning_rate,
            random_state=random_state,
        )

    def fit(self, X: ArrayLike, y: ArrayLike) -> Self:
        """Fit the joint density to X (n, p) and labels y (n,)."""
        data, labels = validate_data(self, X, y, dtype=np.float64, ensure_min_samples=2)
        check_classification_targets(labels)
        self.classes_, numbers = np.unique(labels, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(
                f"y: expected at least 2 classes, got one class, {self.classes_[0]!r}; do "
                f"MorseDensity"
            )
        x = as_tensor("X", data).float()
        seed = self._seed()
        n_classes = len(self.classes_)
        network = MorseClassifier(
            self._map(x, n_classes, seed), n_classes, self.kernel, scale=self.scale
        )
        self.network_ = network.fit(
            x,
            torch.from_numpy(numbers),
            noise=self.noise,
            weight=self.weight,
            seed=seed,
            settings=self._settings(),
        ).eval()
        self.network_.double()
        return self

    def predict_proba(self, X: ArrayLike) -> Floats:
        """p(y|x) by class, (n, C)."""
        x = self._checked(X)
        with torch.no_grad():
            return np.asarray(self.network_.joint_log_density(x).softmax(dim=1).numpy())

    def predict(self, X: ArrayLike) -> NDArray[np.generic]:
        """The most probable label, (n,)."""
        best = self.predict_proba(X).argmax(axis=1)
        return np.asarray(self.classes_[best])

    def score_samples(self, X: ArrayLike) -> Floats:
        """log sum_y mu(x, y), larger on the data, (n,)."""
        return -outlier_scores(self.network_, self._checked(X)).numpy()
