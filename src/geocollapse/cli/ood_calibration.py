"""The calibration of the model's classifier, with and without the temperature of the detector."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from geocollapse.cli.ood_data import Found

if TYPE_CHECKING:
    from torch import Tensor

    from geocollapse.charts import Chart
    from geocollapse.cli.ood_types import CalibrationDict
    from geocollapse.morse import MorseClassifier, MorseNetwork, Reliability


@dataclass(frozen=True, eq=False)
class Calibration:
    """The reliability of a classifier's probabilities.

    Attributes:
        plain: as the model gives them.
        tempered: of logits times the density of the detector.
        accuracy: share of right predictions, the same for both.
        temperature: its median.
    """

    plain: Reliability
    tempered: Reliability
    accuracy: float
    temperature: float

    @classmethod
    def of(cls, network: MorseNetwork | MorseClassifier, data: Found) -> Self | None:
        """The calibration on examples; None where no classifier has their classes."""
        from geocollapse.morse import outlier_scores, reliability, tempered_logits

        logits, _ = logits_of(data)
        if logits is None:
            return None
        log_density = -outlier_scores(network, data.features)
        tempered = tempered_logits(logits, log_density.to(logits.device))
        labels = data.labels.to(logits.device)
        return cls(
            plain=reliability(logits.softmax(dim=1), labels),
            tempered=reliability(tempered.softmax(dim=1), labels),
            accuracy=float((logits.argmax(dim=1) == labels).double().mean()),
            temperature=float((-log_density).exp().median()),
        )

    def to_dict(self) -> CalibrationDict:
        """The strict JSON form."""
        return {
            "accuracy": self.accuracy,
            "ece": self.plain.ece,
            "ece_with_temperature": self.tempered.ece,
            "median_temperature": self.temperature if math.isfinite(self.temperature) else None,
        }

    def line(self) -> str:
        """Both calibration errors in words."""
        return (
            f"classifier: {100 * self.accuracy:.1f} % right, calibration error (ECE) "
            f"{self.plain.ece:.3f}, {self.tempered.ece:.3f} at temperature 1/density "
            f"(median {self.temperature:.3g})"
        )

    def chart(self) -> Chart:
        """Accuracy by confidence, with and without the temperature."""
        from geocollapse.charts import reliability_chart

        return reliability_chart({"as it is": self.plain, "with the temperature": self.tempered})


def logits_of(data: Found) -> tuple[Tensor | None, str]:
    """The classifier's logits (n, C) in float64, or None and the reason."""
    from geocollapse.store.kept import accuracy_of

    if data.head is None:
        return None, "the layer feeds no linear classifier"
    x = data.features.double()
    logits = x @ data.head.weight.to(x).T
    if data.head.bias is not None:
        logits = logits + data.head.bias.to(x)
    found, notes = accuracy_of(logits, data.labels.cpu(), data.class_names)
    return (logits, "") if found is not None else (None, "; ".join(notes))


def check_classifier(data: Found) -> None:
    """Refuse a figure of calibration where no classifier has the classes of the data.

    Raises:
        ValueError: tells the reason.
    """
    logits, reason = logits_of(data)
    if logits is None:
        raise ValueError(
            f"--reliability: expected a classifier of the classes of {data.label}, got none "
            f"({reason}); do leave it out"
        )
