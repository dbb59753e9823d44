"""`geocollapse rank`: several models on one target, best first."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from typer import Argument, Option

from geocollapse.cli.answer import Answer, Display
from geocollapse.cli.options import DataOptions, MachineOptions, ModelOptions, OutFile
from geocollapse.cli.output import OutputFile, check_folder, check_writable
from geocollapse.cli.resolve import FEATURES, Request, parse_bytes, selection

if TYPE_CHECKING:
    from geocollapse.data import Labelled
    from geocollapse.ranking.candidate import Candidate, FeatureSettings, Opened
    from geocollapse.ranking.order import RankSettings
    from geocollapse.ranking.result import Ranking
    from geocollapse.store import KeptLayer
    from geocollapse.store.cache import FeatureCache

_IN_FILES = ("folder:", "parquet:")
_PARTS = re.compile(r"(\d+)")
_LABELLED = re.compile(r"([^=:/\\@]+)=(.+)")  # LABEL=MODEL, and no = inside a path or a name

ModelsArgument = Annotated[
    list[str] | None,
    Argument(
        metavar="MODEL...",
        help="As of `measure`, also LABEL=MODEL; features:FILE needs no --data.",
        show_default=False,
    ),
]


@dataclass(frozen=True)
class RankOptions:
    """The models beside the arguments, the episodes and the cache."""

    data: Annotated[
        str | None,
        Option(metavar="DATA", help="Name, kind or path of the target, as DATA of `transfer`."),
    ] = None
    models: Annotated[
        Path | None, Option(metavar="FILE", help="More models, one a line; # begins a comment.")
    ] = None
    checkpoints: Annotated[
        bool,
        Option(
            "--checkpoints",
            help="MODEL is a run folder that keeps checkpoints, or MODEL@FOLDER with one weights "
            "file each: rank these.",
        ),
    ] = False
    layer: Annotated[
        list[str] | None,
        Option(
            metavar="NAME",
            help="NAME or NAME:in, of every model; default the classifier's. Several are ranked "
            "each.",
        ),
    ] = None
    pool: Annotated[
        Literal["mean", "cls", "last"] | None,
        Option(help="Of maps and sequences: the mean over positions, the first or the last token."),
    ] = None
    tokenizer: Annotated[
        str | None, Option(metavar="ID|DIR", help="Of texts; default each model's own.")
    ] = None
    mode: Annotated[
        Literal["measured", "predicted"] | None,
        Option(
            help="Rank by few-shot accuracy, or by the accuracy that the geometry predicts; "
            "default measured where the labels suffice."
        ),
    ] = None
    n_way: Annotated[
        int | None, Option(metavar="N", help="Classes of an episode; default 5, or all if fewer.")
    ] = None
    k_shot: Annotated[int, Option(metavar="N", help="Labelled examples of each.")] = 5
    n_query: Annotated[int, Option(metavar="N", help="Examples of each to classify, at most.")] = 15
    n_episodes: Annotated[int, Option(metavar="N", help="Episodes.")] = 600
    classifier: Annotated[
        Literal[
            "nearest_mean",
            "nearest_mean_normalised",
            "nearest_mean_centred",
            "linear_probe",
            "logistic_probe",
            "knn",
        ],
        Option(help="Of the features, as of `transfer`."),
    ] = "nearest_mean"
    gc_samples: Annotated[
        int | None,
        Option(
            metavar="N",
            help="Examples whose Jacobians are probed; default one in 20, at least 50.",
        ),
    ] = None
    no_cache: Annotated[
        bool, Option("--no-cache", help="Neither read nor keep features and results on disk.")
    ] = False
    cache_size: Annotated[
        str, Option(metavar="10GB", help="Limit of the cache; what was used last stays.")
    ] = "10GB"
    report: Annotated[
        Path | None,
        Option(
            metavar="DIR", help="Write report.html, ranking.json, ranking.csv and figures/ there."
        ),
    ] = None
    out: OutFile = None


@dataclass(frozen=True)
class _Asked:
    """The options of a ranking, and the examples if all models share those in memory."""

    options: RankOptions
    data: DataOptions
    machine: MachineOptions
    read: Labelled | None


def rank(
    options: RankOptions,
    data_options: DataOptions,
    machine: MachineOptions,
    display: Display,
    model: ModelsArgument = None,
) -> Answer:
    """Rank models by how well their features will do with few labels.

    Few-shot accuracy on the same episodes for all, with the error over other examples like these;
    which models cannot be told apart, and how many examples would do; the accuracy that the
    geometry predicts; and how well each transferability score agrees with the measured order. The
    default split is test. A model that fails is a row with its reason; the others go on.

    DATA without labels (a folder of images without class folders, a csv:FILE without a label
    column, features files without labels) orders the models by a guess: RankMe, which needs none.
    """
    from geocollapse.ranking.run import rank_candidates

    check_writable(options.out, "--out")
    if options.report is not None:
        check_folder(options.report, "--report")
    named = _named(model or [], options)
    read = _read_once(options.data, data_options, machine.seed)
    candidates = _candidates(named, _Asked(options, data_options, machine, read))
    ranking = rank_candidates(
        candidates,
        _feature_settings(options, machine, display),
        _rank_settings(options, machine),
        cache=_cache(options),
    )
    result = ranking.to_dict()
    return Answer(
        json=result,
        text=ranking.to_text(),
        rows=result["models"],
        failed=bool(ranking.failed),
        out=options.out,
        files=_files(ranking, options.report),
    )


def _named(models: Sequence[str], options: RankOptions) -> dict[str, str]:
    """The models by label, of the arguments and of the file.

    Raises:
        ValueError: no model, or two of the same label.
    """
    specs = [*models, *_lines(options.models)]
    if not specs:
        raise ValueError(
            "MODEL: expected at least one model, got none; do geocollapse rank MODEL MODEL --data "
            "DATA"
        )
    found: dict[str, str] = {}
    for given in specs:
        label, spec = labelled(given)
        if label in found:
            raise ValueError(
                f"MODEL: expected models of different names, got {label!r} twice; do "
                f"LABEL={spec}, or leave one out"
            )
        found[label] = spec
    return found


def labelled(given: str) -> tuple[str, str]:
    """The label of a model, and its name.

    By default a folder or a file of weights gives its own name, and other models theirs.

    Examples:
        >>> labelled("wide=timm:resnet50"), labelled("timm:resnet50")
        (('wide', 'timm:resnet50'), ('timm:resnet50', 'timm:resnet50'))
    """
    from geocollapse.models import parse_model

    found = _LABELLED.fullmatch(given)
    if found:
        return found[1], found[2]
    name, at = parse_model(given)
    if at is not None and Path(at).is_file():
        return Path(at).stem, given
    return (Path(name).name if Path(given).is_dir() else given), given


def _lines(path: Path | None) -> list[str]:
    """The models of a file, one a line, without comments and empty lines."""
    if path is None:
        return []
    texts = (line.partition("#")[0].strip() for line in path.read_text("utf-8").splitlines())
    return [text for text in texts if text]


def _read_once(data: str | None, options: DataOptions, seed: int) -> Labelled | None:
    """The examples of a data set that is held in memory, to be prepared for each model.

    Images in files are read anew for each model, one at a time.
    """
    from geocollapse import data as datasets

    if data is None or data.startswith(_IN_FILES):
        return None
    found = datasets.load(
        data, default_split="test", require_labels=False, **selection(options, seed)
    )
    is_held = isinstance(found, datasets.LabelledData | datasets.LabelledTexts)
    return found if is_held else None


def _candidates(named: Mapping[str, str], asked: _Asked) -> list[Candidate]:
    """The models to rank; each is loaded when its turn comes."""
    from geocollapse.ranking.candidate import Candidate

    models = list(named.items())
    if asked.options.checkpoints:
        models = [found for spec in named.values() for found in _checkpoints(spec).items()]
    layers = asked.options.layer or ()
    return [Candidate(label, partial(_open, spec, asked), layers) for label, spec in models]


def _open(spec: str, asked: _Asked) -> Opened | KeptLayer:
    """A model with the target as it takes it, or the features of a file."""
    from geocollapse.ranking.candidate import Opened
    from geocollapse.store import read_features

    if spec.startswith(FEATURES):
        return read_features(spec.removeprefix(FEATURES), require_labels=False)
    request = Request(
        spec, asked.options.data, default_split="test", read=asked.read, require_labels=False
    )
    models = ModelOptions(tokenizer=asked.options.tokenizer)
    inputs = request.resolve(models, asked.data, asked.machine)
    return Opened(inputs.model, inputs.source, inputs.origin, inputs.trained_on, inputs.record)


def _checkpoints(spec: str) -> dict[str, str]:
    """The checkpoints of a run folder, or MODEL with each weights file of a folder, by label.

    Raises:
        ValueError: neither, or a folder without weights.
    """
    from geocollapse.experiments.results.run_folder import RunFolder
    from geocollapse.models import parse_model

    name, at = parse_model(spec)
    steps = RunFolder(name).kept_steps() if at is None else []
    files = [] if at is None else _weights_in(Path(at))
    specs = {f"step {step}": f"{name}@{step}" for step in steps}
    specs |= {path.stem: f"{name}@{path}" for path in files}
    if not specs:
        raise ValueError(
            f"MODEL: expected a run folder with checkpoints (keep_checkpoints: schedule keeps "
            f"them) or MODEL@FOLDER with .safetensors, .pt, .pth or .th files, got {spec}; do "
            f"leave --checkpoints out"
        )
    return specs


def _weights_in(folder: Path) -> list[Path]:
    """The weights files of a folder, numbers in their order."""
    endings = (".safetensors", ".pt", ".pth", ".th")
    found = [path for path in folder.glob("*") if path.suffix in endings]
    return sorted(
        found, key=lambda path: [int(p) if p.isdecimal() else p for p in _PARTS.split(path.stem)]
    )


def _feature_settings(
    options: RankOptions, machine: MachineOptions, display: Display
) -> FeatureSettings:
    from geocollapse.ranking.candidate import FeatureSettings

    return FeatureSettings(
        pool=options.pool,
        gc_samples=options.gc_samples,
        batch_size=machine.batch_size,
        autocast=machine.autocast_dtype(),
        seed=machine.seed,
        progress=not display.quiet,
    )


def _rank_settings(options: RankOptions, machine: MachineOptions) -> RankSettings:
    from geocollapse.ranking.accuracy import EpisodeSettings
    from geocollapse.ranking.order import RankSettings

    episodes = EpisodeSettings(
        k_shot=options.k_shot,
        n_query=options.n_query,
        n_episodes=options.n_episodes,
        classifier=options.classifier,
        seed=machine.seed,
    )
    return RankSettings(
        episodes, n_way=options.n_way, mode=options.mode, is_path=options.checkpoints
    )


def _cache(options: RankOptions) -> FeatureCache | None:
    from geocollapse.store.cache import FeatureCache

    size_limit = parse_bytes(options.cache_size, option="--cache-size")
    return None if options.no_cache else FeatureCache(size_limit=size_limit)


def _files(ranking: Ranking, folder: Path | None) -> list[OutputFile]:
    """The report that was asked for."""
    from geocollapse.measures import SCORES
    from geocollapse.reports.ranking_report import write_ranking

    if folder is None:
        return []

    def write(path: Path) -> None:
        write_ranking(path, ranking.to_dict(), scores=SCORES)

    return [OutputFile("--report", folder, write)]
