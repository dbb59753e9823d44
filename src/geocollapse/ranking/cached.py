"""What a ranking found of one model, kept on disk beside its features."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

from geocollapse.data.fingerprint import Fingerprint
from geocollapse.estimate import Estimate
from geocollapse.influence import Influence
from geocollapse.models import TrainingRecord
from geocollapse.ranking.accuracy import EpisodeSettings, SampledAccuracy
from geocollapse.ranking.result import RankedModel
from geocollapse.ranking.scores import Null, Score
from geocollapse.runtime.provenance import provenance
from geocollapse.store import KeptLayer
from geocollapse.store.cache import FeatureCache, key_of
from geocollapse.store.features_file import arrays_of
from geocollapse.store.features_text import text_of
from geocollapse.store.records import packed
from geocollapse.transfer import FewShotAccuracy, Jackknifed

_KINDS = {
    kind.__name__: kind
    for kind in (Estimate, FewShotAccuracy, Influence, Jackknifed, Null, SampledAccuracy, Score)
}
_FOUND = (
    "sampled",
    "curve",
    "predicted",
    "geometric_complexity",
    "scores",
    "warnings",
)
_ORIGIN = ("model", "data", "split")


@dataclass(frozen=True)
class RankedCache:
    """What ``rank_model`` finds, in the folder of the features and within its size limit.

    Attributes:
        files: the folder; None keeps nothing.
        episodes: the same for all models.
        is_measured: False if only the predicted accuracy is asked for.
    """

    files: FeatureCache | None
    episodes: EpisodeSettings
    is_measured: bool

    def read(
        self, label: str, kept: KeptLayer, record: TrainingRecord | None
    ) -> RankedModel | None:
        """The model as it was found from the same features; None if it is not kept."""
        if self.files is None:
            return None
        found = self.files.read_record(self._key(kept, record), _KINDS)
        return RankedModel(label=label, kept=kept, **found) if isinstance(found, dict) else None

    def write(self, model: RankedModel, record: TrainingRecord | None) -> None:
        """Keep all of a model but its features."""
        if self.files is None:
            return
        found = {name: getattr(model, name) for name in _FOUND}
        origin = model.kept.context.provenance
        about = {
            "layer": model.kept.layer,
            "provenance": {name: origin.get(name) for name in _ORIGIN},
        }
        self.files.write_record(self._key(model.kept, record), found, about)

    def _key(self, kept: KeptLayer, record: TrainingRecord | None) -> str:
        """A hash of all that ``rank_model`` computes from, and of the code."""
        now = provenance(seed=self.episodes.seed, device=kept.features.device)
        return key_of(
            {
                "features": _content(kept),
                "episodes": asdict(self.episodes),
                "is_measured": self.is_measured,
                "record": None if record is None else packed(record)[1],
                "versions": [now["geocollapse"], now["revision"], now["torch"]],
                "device": now["device"],
            }
        )


def _content(kept: KeptLayer) -> str:
    """SHA-256 of a layer with all that belongs to it but its provenance."""
    digest = Fingerprint()
    for name, tensor in arrays_of(kept).items():
        digest.add_value(name)
        digest.add_tensor(tensor)
    bare = replace(kept, context=replace(kept.context, provenance={}))
    digest.add_value(text_of(bare, {}))
    digest.add_value(kept.context.seed)
    return digest.hexdigest()
