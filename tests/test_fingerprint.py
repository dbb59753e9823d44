"""Fingerprints: equal for what a model sees alike, different for everything else."""

import os
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision.datasets import ImageFolder

from geocollapse import data
from geocollapse.data import About, LabelledData, LabelledTexts
from geocollapse.data.preprocessing import resize_and_crop
from geocollapse.models import LoadedModel, prepare

PLAIN = LoadedModel(nn.Flatten(), "plain")
ABOUT = About("x", "train", ("a", "b"), mean=(0.5,), std=(0.25,))


def folder(path, greys=(10, 20, 30, 40)):
    for number, grey in enumerate(greys):
        (path / "ab"[number % 2]).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (9, 9), (grey,) * 3).save(path / "ab"[number % 2] / f"{number}.png")
    return f"folder:{path}"


def tensors(inputs=None, labels=(0, 1), about=ABOUT):
    inputs = torch.arange(8.0).reshape(2, 1, 2, 2) if inputs is None else inputs
    return LabelledData(inputs, torch.tensor(labels), about)


def about(**changes):
    return About(**{**vars(ABOUT), **changes})


def all_differ(datasets):
    found = [dataset.fingerprint() for dataset in datasets]
    assert len(set(found)) == len(found)
    assert all(len(one) == 64 and int(one, 16) >= 0 for one in found)


def test_an_example_has_one_digest_in_every_subset_order_and_choice_of_classes():
    whole = data.load("digits")
    found = whole.example_digests()
    assert all(len(one) == 16 and int(one, 16) >= 0 for one in found)
    assert len(set(found)) == len({one.numpy().tobytes() for one in whole.inputs})
    inputs_of = dict(zip(found, whole.inputs, strict=True))
    for part in (whole.select(subset=20, seed=1), whole.select(classes="7,2", subset=20)):
        for digest, inputs in zip(part.example_digests(), part.inputs, strict=True):
            assert torch.equal(inputs_of[digest], inputs)


def test_tensors():
    inputs = tensors().inputs
    changed = inputs.clone()
    changed[1, 0, 1, 1] += 1e-6
    all_differ(
        [
            tensors(),
            tensors(changed),
            tensors(inputs.double()),
            tensors(inputs.reshape(2, 1, 4, 1)),
            tensors(inputs.bfloat16()),
            tensors(inputs.flip(0)),
            tensors(labels=(1, 0)),
            tensors(about=about(classes=("a", "c"))),
            tensors(about=about(split="test")),
            tensors(about=about(mean=(0.4,))),
            tensors(about=about(std=(0.4,))),
            tensors().select(classes="1"),
        ]
    )
    same = about(name="y", notes=("read elsewhere",))
    assert tensors(about=same).fingerprint() == tensors().fingerprint()
    strided = inputs.transpose(2, 3).contiguous().transpose(2, 3)
    assert tensors(strided).fingerprint() == tensors().fingerprint()


def test_named_data():
    specs = [{"spec": "digits"}, {"spec": "digits:test"}, {"spec": "digits", "classes": "0-4"}]
    specs += [{"spec": "digits", "classes": "4,3,2,1,0"}, {"spec": "digits", "subset": 20}]
    specs += [{"spec": "digits", "subset": 20, "seed": 1}, {"spec": "digits", "subset": 30}]
    specs += [{"spec": "digits", "mean": (0.5,)}, {"spec": "digits", "std": (0.5,)}]
    specs += [{"spec": "digits", "pad_to": 10}, {"spec": "digits", "image_size": 10}]
    specs += [{"spec": "digits", "image_size": 12, "subset": 20}]
    all_differ([data.load(**spec) for spec in specs])
    for spec in specs:
        assert data.load(**spec).fingerprint() == data.load(**spec).fingerprint()


def test_folders_are_hashed_by_content(tmp_path):
    spec = folder(tmp_path / "one")
    settings = [{}, {"image_size": 10}, {"image_size": 10, "mean": (0.5,) * 3}]
    settings += [{"image_size": 10, "std": (0.5,) * 3}, {"classes": "b"}, {"classes": "b,a"}]
    settings += [{"subset": 2}, {"subset": 3}, {"preprocessing": resize_and_crop("own", 12)}]
    found = [data.load(spec, **one) for one in settings]
    all_differ([*found, data.load(folder(tmp_path / "two", (10, 20, 30, 41)))])
    before = found[0].fingerprint()
    assert data.load(folder(tmp_path / "elsewhere")).fingerprint() == before
    as_ones_own = resize_and_crop("whose values these are does not count")
    assert data.load(spec, preprocessing=as_ones_own).fingerprint() == before
    path = tmp_path / "one" / "a" / "0.png"
    path.write_bytes(path.read_bytes() + b"!")  # the pixels stay
    assert data.load(spec).fingerprint() != before


def test_steps_that_the_record_does_not_tell(tmp_path):
    spec = folder(tmp_path)
    one = resize_and_crop("own", 12)
    other = type(one)(**{**vars(one), "transform": nn.Sequential(nn.Flatten())})
    all_differ([data.load(spec, preprocessing=own) for own in (one, other)])


def test_a_folder_and_a_table_of_the_same_files_agree(tmp_path):
    spec = folder(tmp_path / "img")
    paths = sorted((tmp_path / "img").rglob("*.png"))
    images = [{"bytes": path.read_bytes(), "path": path.name} for path in paths]
    labels = [path.parent.name for path in paths]
    pq.write_table(pa.table({"image": images, "label": labels}), tmp_path / "x.parquet")
    shards = data.load(f"parquet:{tmp_path / 'x.parquet'}")
    assert shards.fingerprint() == data.load(spec).fingerprint()
    all_differ([shards, shards.select(subset=2), shards.select(classes="a")])
    digests = shards.example_digests()
    assert len(set(digests)) == len({path.read_bytes() for path in paths})
    small = data.load(spec, image_size=4)  # images are hashed before any preprocessing
    assert small.example_digests() == digests
    rows = [row for row, label in enumerate(labels) if label == "a"]
    assert shards.select(classes="a").example_digests() == [digests[row] for row in rows]


def test_images_that_do_not_decode_are_hashed_too(tmp_path):
    images = [{"bytes": b"x", "path": None}, {"bytes": None, "path": None}, None]
    table = pa.table({"image": images, "label": ["a", "a", "a"]})
    pq.write_table(table, tmp_path / "x.parquet")
    loaded = data.load(f"parquet:{tmp_path / 'x.parquet'}")
    all_differ([loaded, loaded.select(subset=1), loaded.select(subset=2)])


class Photos:
    """Raw images, as torchvision's data sets hold them without a transform."""

    classes = ("ant", "bee")

    def __init__(self, grey=0, mode="RGB", targets=(1, 0)):
        self.targets = targets
        self.images = [Image.new(mode, (20, 30)), Image.new(mode, (20, 30), grey)]

    def __len__(self):
        return 2

    def __getitem__(self, position):
        return self.images[position], self.targets[position]


def test_raw_images(tmp_path):
    raw = [Photos(), Photos((1, 2, 3)), Photos(mode="L"), Photos(targets=(0, 1))]
    all_differ([prepare(PLAIN, one, image_size=8) for one in raw])
    again = prepare(PLAIN, Photos(), image_size=8)
    assert again.fingerprint() == prepare(PLAIN, raw[0], image_size=8).fingerprint()
    folder(tmp_path)
    of_files = prepare(PLAIN, ImageFolder(str(tmp_path)))
    assert of_files.fingerprint() == data.load(f"folder:{tmp_path}").fingerprint()


class Words:
    """A tokenizer of one token a word: its length."""

    model_max_length, pad_token_id = 5, 0

    def __init__(self, extra=0):
        self.extra = extra

    def __call__(self, texts, truncation=False, max_length=None, **_):
        rows = [[len(word) + self.extra for word in text.split()] for text in texts]
        return {"input_ids": [row[: max_length if truncation else None] for row in rows]}

    def convert_ids_to_tokens(self, ids):
        return [f"{number} letters" for number in ids]


def test_texts_and_their_tokens():
    words = ["a bb", "a ccc a bb", "a bb a bb a"]
    texts = LabelledTexts(words, torch.tensor([0, 1, 0]), about(mean=None, std=None))
    other = LabelledTexts(["a bb", "a dd", "x"], texts.targets, texts.about)
    all_differ([texts, other])
    model = LoadedModel(nn.Flatten(), "m", tokenizer=Words())
    padded = Words()
    padded.pad_token_id = 7
    all_differ(
        [
            prepare(model, texts),
            prepare(model, other),
            prepare(model, texts, tokenizer=Words(1)),
            prepare(model, texts, tokenizer=padded),
            prepare(model, texts, max_length=3),
            prepare(model, texts, next_tokens=2),
            prepare(model, texts, next_tokens=1),
            prepare(model, texts, classes="0"),
        ]
    )
    assert prepare(model, texts).fingerprint() == prepare(model, texts).fingerprint()
    for whole in (texts, prepare(model, texts)):
        digests = whole.example_digests()
        assert len(set(digests)) == 3
        assert whole.select(classes="1").example_digests() == digests[1:2]


@pytest.mark.parametrize("seed", ["0", "1"])
def test_other_processes_agree(tmp_path, seed):
    spec = folder(tmp_path)
    code = (
        "from geocollapse import data; from geocollapse.data.preprocessing import resize_and_crop;"
        f"print(data.load('digits', subset=20).fingerprint(), data.load({spec!r}).fingerprint())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONHASHSEED": seed},
    )
    here = [data.load("digits", subset=20).fingerprint(), data.load(spec).fingerprint()]
    assert done.stdout.split() == here


def test_a_pinned_value():
    """Another value here makes every cache of features stale."""
    assert tensors().fingerprint() == (
        "2274a24d0aa219f2c5b2da71a5a01e5989e94dfee0dd9dd9262e1cca295eed8d"
    )
