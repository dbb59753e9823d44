"""The detector of `geocollapse ood`: fitted on a share of the data, or read from a file."""

from __future__ import annotations

import time
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Self

from typer import Option

from geocollapse.cli.ood_data import Found, OutlierData
from geocollapse.cli.ood_fitted import FittedOn
from geocollapse.cli.wording import option_of

if TYPE_CHECKING:
    from geocollapse.cli.ood_types import DetectorDict
    from geocollapse.estimate import Json
    from geocollapse.morse import DetectorSettings, MorseClassifier, MorseNetwork


@dataclass(frozen=True)
class FitOptions:
    """The density, and how it is fitted."""

    labels: Annotated[
        bool,
        Option(help="Density of features and classes, or of features alone."),
    ] = True
    kernel: Annotated[
        Literal["gauss", "laplace", "cauchy", "student"], Option(help="Of the density.")
    ] = "gauss"
    scale: Annotated[float, Option(metavar="10", help="Lambda of the kernel.")] = 10.0
    hidden: Annotated[
        str | None,
        Option(metavar="64,64", help="Widths of hidden layers of the map; default a linear map."),
    ] = None
    noise: Annotated[
        Literal["uniform", "gaussian"], Option(help="That the density is fitted against.")
    ] = "uniform"
    weight: Annotated[float, Option(metavar="1", help="Of the noise.")] = 1.0
    n_steps: Annotated[int, Option(metavar="N", help="Of the fit, at most.")] = 1500
    detector: Annotated[
        Path | None, Option(metavar="FILE", help="Do not fit: take the detector of --save.")
    ] = None

    def check(self, *, saves: bool) -> None:
        """Refuse options of a fit, and --save, beside a detector that is fitted."""
        if self.detector is None:
            return
        if saves:
            raise ValueError(
                f"--save: expected none with --detector, which is in a file, got both; do copy "
                f"{self.detector}"
            )
        for field in fields(self):
            if field.name != "detector" and getattr(self, field.name) != field.default:
                option = option_of(field.name)
                raise ValueError(
                    f"{option}: expected none with --detector, which is fitted, got "
                    f"{getattr(self, field.name)}; do leave one out"
                )

    def settings(self, seed: int, *, progress: bool) -> DetectorSettings:
        """As the library takes them."""
        from geocollapse.morse import DetectorSettings, FitSettings

        parts = [] if self.hidden is None else self.hidden.split(",")
        if not all(part.strip().isdecimal() and int(part) > 0 for part in parts):
            raise ValueError(
                f"--hidden: expected positive widths separated by commas, got {self.hidden!r}; do "
                f"--hidden 64,64"
            )
        return DetectorSettings(
            kernel=self.kernel,
            scale=self.scale,
            hidden=[int(part) for part in parts],
            noise=self.noise,
            weight=self.weight,
            seed=seed,
            fit=FitSettings(n_steps=self.n_steps, progress=progress),
        )


@dataclass(frozen=True, eq=False)
class Detector:
    """A Morse network with the examples of the data that it was not fitted on.

    Attributes:
        network: that was fitted.
        about: its description.
        held_out: the data to score.
        fitted_on: the data that it was fitted on now; None for one from a file.
        notes: on the data to score.
        fit_share: share of the data that it was fitted on; None for all.
        seed: of the share and of the fit.
    """

    network: MorseNetwork | MorseClassifier
    about: DetectorDict
    held_out: Found
    fitted_on: Found | None = None
    notes: tuple[str, ...] = ()
    fit_share: float | None = None
    seed: int | None = None

    @classmethod
    def fitted(
        cls, found: OutlierData, fit_share: float, options: FitOptions, settings: DetectorSettings
    ) -> Self:
        """Fit on a share of the data, or on all if others are held out."""
        from geocollapse.morse import fit_detector

        fitted, held_out = found.split(fit_share, settings.seed)
        start = time.perf_counter()
        labels = fitted.labels if options.labels else None
        network = fit_detector(fitted.features, labels, settings)
        about = _described(network)
        about["seconds"] = time.perf_counter() - start
        about["noise"] = options.noise
        about["weight"] = options.weight
        share = fit_share if found.held_out is None else None
        return cls(network, about, held_out, fitted, (), share, settings.seed)

    @property
    def n_fitted(self) -> int:
        """Examples that it was fitted on now; 0 for one from a file."""
        return 0 if self.fitted_on is None else len(self.fitted_on.features)

    @classmethod
    def read(cls, found: OutlierData, path: Path) -> Self:
        """Read a file of --save; the examples that it was fitted on are not scored.

        Raises:
            ValueError: a file that does not tell its examples, features of another width, model or
                layer, or data on all of which it was fitted.
        """
        from geocollapse.morse import load_network

        network, saved = load_network(path)
        fitted_on = FittedOn.parsed(saved, path)
        fitted_on.check(found.data, path)
        about = _described(network)
        noise = saved.get("noise")
        weight = saved.get("weight")
        about["file"] = str(path)
        about["noise"] = noise if isinstance(noise, str) else None
        about["weight"] = weight if isinstance(weight, float) else None
        held_out, notes = fitted_on.unseen(found.held_out or found.data, path)
        return cls(network, about, held_out, notes=notes)

    def beside(self) -> dict[str, Json]:
        """What a file of the detector tells: its features, and the examples of its fit."""
        fitted_on = {} if self.fitted_on is None else FittedOn.of(self.fitted_on).to_json()
        return {
            **fitted_on,
            "fit_share": self.fit_share,
            "seed": self.seed,
            "noise": self.about["noise"],
            "weight": self.about["weight"],
        }


def _described(network: MorseNetwork | MorseClassifier) -> DetectorDict:
    """The description of a network, as far as it knows itself."""
    from geocollapse.morse import MorseClassifier

    record = network.record
    return {
        "file": None,
        "labels": isinstance(network, MorseClassifier),
        "kernel": network.kernel,
        "scale": network.scale,
        "hidden": list(getattr(network.map, "hidden", ())),
        "noise": None,
        "weight": None,
        "n_steps": None if record is None else record.n_steps,
        "best_step": None if record is None else record.best_step,
        "noise_density": None if record is None else record.noise_density,
        "seconds": None,
    }
