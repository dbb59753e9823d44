"""The runs that a recipe plans, of any kind of experiment."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field
from typing_extensions import TypedDict

from geocollapse.experiments.recipe.game import GameRunConfig
from geocollapse.experiments.recipe.settings import Part, RunConfig, Setting

AnyRunConfig = RunConfig | GameRunConfig


class PlanEntry(TypedDict):
    """One run of a plan, as sweep.yaml lists it."""

    run_id: str
    seed: int
    sweeps: dict[str, Setting]
    overrides: Setting


class PlannedRun(Part):
    """One run of a plan.

    Attributes:
        run_id: name of its folder.
        config: its resolved configuration.
        sweeps: sweep name -> its setting in that sweep; one run may belong to several sweeps.
        overrides: how it differs from the base setting.
    """

    run_id: str
    config: AnyRunConfig
    sweeps: dict[str, Setting] = Field(default={})
    overrides: Setting = Field(default={})

    def entry(self) -> PlanEntry:
        """Its line in sweep.yaml."""
        return {
            "run_id": self.run_id,
            "seed": self.config.seed,
            "sweeps": self.sweeps,
            "overrides": self.overrides,
        }


def parse_run_config(content: Mapping[str, object]) -> AnyRunConfig:
    """The configuration of a run of the kind that its content names; supervised without a name.

    Raises:
        ValueError: as of `Part.of`.
    """
    if content.get("kind", RunConfig.kind) == RunConfig.kind:
        return RunConfig.of({key: value for key, value in content.items() if key != "kind"})
    return GameRunConfig.of(content)
