"""Data made ready for a model: the same from a name, from loaded data, and by the command line."""

import json

import pytest
import torch
from PIL import Image
from torch import nn

from geocollapse import data
from geocollapse.cli import main
from geocollapse.data import About, LabelledImages, LabelledTexts, LabelledTokens, Normalisation
from geocollapse.data.preprocessing import resize_and_crop
from geocollapse.models import LoadedModel, prepare

PLAIN = LoadedModel(nn.Flatten(), "plain")
SEEING = LoadedModel(nn.Flatten(), "seeing", preprocessing=resize_and_crop("its own", 12))


MLP = "geocollapse.models.architectures:MLP"


class Words:
    """A tokenizer of one token a word: its length."""

    model_max_length, pad_token_id = 5, 0

    def __call__(self, texts, truncation=False, max_length=None, **_):
        rows = [[len(word) for word in text.split()] for text in texts]
        return {"input_ids": [row[: max_length if truncation else None] for row in rows]}

    def convert_ids_to_tokens(self, ids):
        return [f"{number} letters" for number in ids]


class Photos:
    """Raw images, as torchvision's data sets hold them without a transform."""

    targets, classes = (1, 0, 1), ("ant", "bee")

    def __len__(self):
        return 3

    def __getitem__(self, position):
        return Image.new("RGB", (20, 30), (50 * position, 0, 0)), self.targets[position]


def texts():
    about = About("words", "all", ("x", "y"))
    return LabelledTexts(["a bb", "a ccc", "a bb a bb a"], torch.tensor([0, 1, 0]), about)


def inputs_of(dataset):
    return torch.stack([dataset[row][0] for row in range(len(dataset))])


def test_a_name_is_loaded_as_the_model_takes_it():
    plain = prepare(PLAIN, "digits", classes="0-4", subset=20, seed=3)
    assert torch.equal(plain.inputs, data.load("digits", classes="0-4", subset=20, seed=3).inputs)
    seeing = prepare(SEEING, "digits", default_split="test", subset=20, image_size=9)
    assert isinstance(seeing, LabelledImages)
    assert (seeing[0][0].shape, seeing.split) == ((3, 9, 9), "test")
    assert prepare(SEEING, "digits", split="test", subset=20, mean=(0.5,) * 3).mean == (0.5,) * 3


def test_the_normalisation_of_a_run_gives_way_to_ones_own():
    trained = LoadedModel(nn.Flatten(), "run", normalisation=Normalisation([0.5], [0.25], 10))
    ready = prepare(trained, "digits", subset=20)
    assert (ready.mean, ready.std, ready.inputs.shape[1:]) == ((0.5,), (0.25,), (1, 10, 10))
    assert prepare(trained, "digits", subset=20, std=(1.0,)).std == (1.0,)


@pytest.mark.parametrize(
    "loaded",
    [
        PLAIN,
        SEEING,
        LoadedModel(nn.Flatten(), "run", normalisation=Normalisation([0.5], [0.25], 10)),
    ],
    ids=lambda loaded: loaded.name,
)
def test_loaded_data_are_made_ready_as_named_ones(loaded):
    named = prepare(loaded, "digits", classes="7,1", subset=30, seed=1)
    whole = data.load("digits")
    ready = prepare(loaded, whole, classes="7,1", subset=30, seed=1)
    torch.testing.assert_close(inputs_of(ready), inputs_of(named), atol=1e-6, rtol=1e-6)
    assert ready.targets.tolist() == named.targets.tolist()
    assert ready.about == named.about
    assert torch.equal(whole.inputs, data.load("digits").inputs)


def test_data_that_need_nothing_are_handed_back():
    whole = data.load("digits")
    assert prepare(PLAIN, whole) is whole


def test_raw_images_of_torchvisions_form():
    ready = prepare(SEEING, Photos())
    assert (ready.name, ready.split, ready.classes) == ("Photos", "all", ["ant", "bee"])
    assert ready.targets.tolist() == [1, 0, 1]
    assert torch.equal(ready[2][0], SEEING.preprocessing(Photos()[2][0]))
    assert len(prepare(SEEING, Photos(), classes="bee")) == 2


def test_texts_become_tokens_of_the_models_tokenizer_or_another():
    reading = LoadedModel(nn.Identity(), "reading", tokenizer=Words())
    ready = prepare(reading, texts(), max_length=2)
    assert [row["input_ids"] for row, _ in ready] == [[1, 2], [1, 3], [1, 2]]
    assert ready.notes == ("tokens: 1 of 3 texts were cut after 2 tokens",)
    assert prepare(PLAIN, texts(), tokenizer=Words()).encoded == prepare(reading, texts()).encoded
    following = prepare(reading, texts(), next_tokens=1)
    assert following.classes == ["1 letters", "2 letters"]


def tokens():
    return LabelledTokens([{"input_ids": [1]}], torch.tensor([0]), About("tokens", "all", ("x",)))


@pytest.mark.parametrize(
    ("loaded", "dataset", "options", "error", "message"),
    [
        (PLAIN, "digits", {"max_length": 3}, ValueError, "max_length: expected none with digits, "),
        (
            PLAIN,
            "digits",
            {"tokenizer": "a"},
            ValueError,
            "tokenizer: .* which holds no texts, got",
        ),
        (
            PLAIN,
            texts(),
            {},
            ValueError,
            "tokenizer: expected one for the texts of words, got none with plain; do tokenizer=DIR",
        ),
        (SEEING, texts(), {}, ValueError, "preprocessing: expected None for texts, .* its own"),
        (PLAIN, texts(), {"mean": [0.5]}, ValueError, "mean: expected None for texts, which have"),
        (
            SEEING,
            data.load("digits", subset=20, preprocessing=SEEING.preprocessing),
            {},
            ValueError,
            "data: expected raw images or the name of a data set, got images of digits that are",
        ),
        (
            PLAIN,
            tokens(),
            {},
            TypeError,
            "data: expected the name of a data set, .* LabelledTokens",
        ),
        (PLAIN, [1, 2], {}, TypeError, "data: expected the name of a data set, .* got list; do"),
        (
            PLAIN,
            data.LabelledData(torch.ones(2, 3), torch.tensor([0, 1]), About("rows", "all", "ab")),
            {"mean": [0.5]},
            ValueError,
            "data: expected images whose normalisation is known, got rows without mean and std; do",
        ),
    ],
)
def test_what_a_model_does_not_take(loaded, dataset, options, error, message):
    with pytest.raises(error, match=f"^{message}"):
        prepare(loaded, dataset, **options)


def error_line(capsys, *arguments):
    assert main([*arguments, "--quiet"]) == 2
    return capsys.readouterr().err.strip()


def test_the_command_line_names_its_options(tmp_path, capsys):
    """The library speaks of arguments, the command line of options."""
    model = "torch.nn:Identity"
    assert error_line(capsys, "measure", model, "digits", "--max-length", "3") == (
        "error: --max-length: expected none with digits, which holds no texts, got 3"
    )
    spec = f"csv:{tmp_path / 'a.csv'}"
    (tmp_path / "a.csv").write_text("text,label\nx y,a\nz,b\n")
    assert error_line(capsys, "measure", model, spec) == (
        f"error: --tokenizer: expected one for the texts of {spec}, got none with {model}; "
        f"do --tokenizer DIR"
    )


@pytest.mark.parametrize(
    "command",
    [
        ["measure", MLP, "digits", "--subset", "40"],
        [
            "measure",
            MLP,
            "digits",
            "--subset",
            "40",
            "--layer",
            "features.1",
            "--layer",
            "features.3",
        ],
        ["transfer", MLP, "digits", "--n-episodes", "3"],
        ["data"],
        ["models"],
        ["recipes"],
    ],
    ids=lambda command: f"{command[0]}-{len(command)}",
)
def test_every_object_has_the_version_of_its_schema(command, capsys):
    assert main([*command, "--json", "--quiet"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["schema_version"] == 1
    assert all(layer["schema_version"] == 1 for layer in found.get("layers", []))


class Rows:
    """Unpadded tokens as the data sets of Hugging Face hold them."""

    rows = (
        {"input_ids": [5, 6, 7], "attention_mask": [1, 1, 1], "label": 10, "text": "abc"},
        {"input_ids": [8], "attention_mask": [1], "label": 9, "text": "a"},
    )

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, row):
        return self.rows[row]


def test_rows_of_unpadded_tokens_are_padded_with_the_tokenizer():
    """They ended in an error of the default collate function."""

    class Padding(Words):
        pad_token_id = 3

    ready = prepare(PLAIN, Rows(), tokenizer=Padding())
    batch = ready.collate_fn([ready[0], ready[1]])
    assert {name: value.tolist() for name, value in batch.items()} == {
        "input_ids": [[5, 6, 7], [8, 3, 3]],
        "attention_mask": [[1, 1, 1], [1, 0, 0]],
        "labels": [1, 0],
    }
    assert (ready.classes, ready.name, ready.lengths.tolist()) == (["9", "10"], "Rows", [3, 1])
    alone = prepare(PLAIN, list(Rows.rows))
    assert alone.collate_fn([alone[1], alone[0]])["input_ids"].tolist() == [[8, 0, 0], [5, 6, 7]]
    reading = LoadedModel(nn.Identity(), "reading", tokenizer=Padding())
    assert prepare(reading, Rows()).padding == 3
    chosen = prepare(reading, Rows(), classes="10")
    assert (chosen.classes, chosen.encoded[0]["input_ids"], chosen.padding) == (
        ["10"],
        [5, 6, 7],
        3,
    )
    with pytest.raises(
        ValueError, match="max_length: expected none with rows of tokens, which hol"
    ):
        prepare(reading, Rows(), max_length=2)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            [{"input_ids": [1]}],
            "data: expected a label in each row of tokens, got input_ids; do na",
        ),
        ([{"input_ids": [1], "label": 0.5}], "labels: expected the number or the name .* got 0.5"),
    ],
)
def test_rows_without_labels_are_refused(rows, message):
    with pytest.raises(ValueError, match=message):
        prepare(PLAIN, rows)
