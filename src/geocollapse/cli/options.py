"""The options that several commands share, in groups; each command takes the groups it uses."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from typer import Argument, BadParameter, Option

if TYPE_CHECKING:
    import torch

Device = Literal["auto", "cpu", "cuda", "mps"]

ModelArgument = Annotated[
    str,
    Argument(
        metavar="MODEL",
        help="A run folder of train or sweep, FILE.py:FACTORY, PACKAGE.MODULE:FACTORY, or "
        "pretrained timm:NAME, torchvision:NAME, hf:ID; NAME@random is untrained, MODEL@FILE has "
        "the weights of FILE. Or features:FILE.",
    ),
]
DataArgument = Annotated[
    str | None,
    Argument(
        metavar="DATA",
        help="A data set of `geocollapse data`, folder:PATH, parquet:GLOB or csv:FILE; :SPLIT may "
        "follow. None with features:FILE.",
        show_default=False,
    ),
]
RecipeArgument = Annotated[
    str,
    Argument(
        metavar="RECIPE", help="A name of `geocollapse recipes`, or a .yaml file of your own."
    ),
]
OutFile = Annotated[
    Path | None,
    Option(
        metavar="FILE", help="Also write the result there, as .json, .csv or text by its ending."
    ),
]


def _folder(text: str) -> Path:
    """A folder by its name: `Path("")` would be the current one."""
    if not text:
        raise BadParameter("expected a folder, got ''; do name one, . for the current one")
    return Path(text)


OutFolder = Annotated[
    Path | None, Option(metavar="DIR", help="Folder for the results.", parser=_folder)
]
Settings = Annotated[
    list[str] | None,
    Option("--set", metavar="KEY=VALUE", help="Change a key of the recipe; may be repeated."),
]
Preset = Annotated[
    str | None, Option(metavar="NAME", help="A preset of the recipe, such as smoke.")
]
DataRoot = Annotated[
    Path | None,
    Option(
        metavar="DIR", help="Folder of data sets; default $GEOCOLLAPSE_DATA, else the user's cache."
    ),
]
DeviceOption = Annotated[
    Device, Option(help="Where to compute; auto takes an accelerator if there is one.")
]
Seed = Annotated[int, Option(help="Of probes, samples, subsets and episodes.")]


@dataclass(frozen=True)
class ModelOptions:
    """The weights of MODEL, and how to build it."""

    weights: Annotated[
        Path | None,
        Option(
            metavar="FILE", help="safetensors, or a .pt, .pth or .th state dict (no pickled code)."
        ),
    ] = None
    weights_key: Annotated[
        str | None,
        Option(
            metavar="KEY",
            help="Entry of FILE that holds the weights; default the only one that fits.",
        ),
    ] = None
    weights_prefix: Annotated[
        str | None,
        Option(
            metavar="PREFIX",
            help="Of the names in FILE, such as backbone.; default the only one that fits.",
        ),
    ] = None
    model_arg: Annotated[
        list[str] | None,
        Option(
            metavar="KEY=VALUE",
            help="Argument of the factory, key of an hf: configuration; may be repeated.",
        ),
    ] = None
    layer: Annotated[
        list[str] | None,
        Option(
            metavar="NAME",
            help="NAME, or NAME:in for its input; default the classifier's. measure takes several.",
        ),
    ] = None
    classifier: Annotated[
        str | None, Option(metavar="NAME", help="The linear classifier behind the embedding.")
    ] = None
    pool: Annotated[
        Literal["mean", "cls", "last"] | None,
        Option(
            help="Of maps and sequences: the mean over positions, the first or the last token; "
            "default all positions."
        ),
    ] = None
    input_layer: Annotated[
        str | None,
        Option(
            metavar="NAME", help="Layer that embeds tokens; default a transformers model's own."
        ),
    ] = None
    tokenizer: Annotated[
        str | None,
        Option(metavar="ID|DIR", help="Tokenizer of texts; default the model's own."),
    ] = None


@dataclass(frozen=True)
class DataOptions:
    """The examples of DATA, and their preparation."""

    data_root: DataRoot = None
    classes: Annotated[
        list[str] | None,
        Option(metavar="0-4,7", help="Classes by number or name; ranges, commas, repeated."),
    ] = None
    text_column: Annotated[
        str | None, Option(metavar="NAME", help="Column of the texts of csv:FILE; default text.")
    ] = None
    label_column: Annotated[
        str | None,
        Option(
            metavar="NAME",
            help="Column of the classes of csv: and parquet:; default label, else category or "
            "labels.",
        ),
    ] = None
    image_column: Annotated[
        str | None,
        Option(metavar="NAME", help="Column of the images of parquet:GLOB; default image or img."),
    ] = None
    skip_broken: Annotated[
        bool,
        Option(
            "--skip-broken",
            help="Leave out images of folder: and parquet: that do not decode; they are counted "
            "and named.",
        ),
    ] = False
    max_length: Annotated[
        int | None,
        Option(metavar="N", help="Cut texts after N tokens; default the tokenizer's limit."),
    ] = None
    next_tokens: Annotated[
        int | None,
        Option(
            metavar="N",
            help="Of texts: classes are the next tokens, examples the up to N tokens before them.",
        ),
    ] = None
    subset: Annotated[
        int | None, Option(metavar="N", help="N examples, seeded and balanced over the classes.")
    ] = None
    image_size: Annotated[
        int | None,
        Option(
            metavar="N",
            help="Images of N x N pixels; default the model's own size, or the images' own.",
        ),
    ] = None
    mean: Annotated[
        str | None,
        Option(
            metavar="R,G,B", help="Channel means; default the model's own, else the data set's."
        ),
    ] = None
    std: Annotated[
        str | None,
        Option(
            metavar="R,G,B",
            help="Channel deviations; default the model's own, else the data set's.",
        ),
    ] = None


@dataclass(frozen=True)
class MachineOptions:
    """The device, precision and batches of the model."""

    device: DeviceOption = "auto"
    dtype: Annotated[
        Literal["float32", "float64", "bfloat16"] | None,
        Option(help="Precision; default the model's own."),
    ] = None
    autocast: Annotated[
        Literal["bfloat16", "float16"] | None,
        Option(help="Precision of matrix products and convolutions."),
    ] = None
    batch_size: Annotated[
        int | None, Option(metavar="N", help="Examples that go through the model together.")
    ] = None
    num_workers: Annotated[
        int, Option(metavar="N", help="Processes that read examples from files.")
    ] = 0
    threads: Annotated[int | None, Option(metavar="N", help="CPU threads.")] = None
    seed: Seed = 0

    def autocast_dtype(self) -> torch.dtype | None:
        """The dtype that ``--autocast`` names."""
        import torch

        return None if self.autocast is None else getattr(torch, self.autocast)
