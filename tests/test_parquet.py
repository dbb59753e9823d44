"""Images in .parquet files: layouts, labels, splits, damage, and rows without an image or label."""

import io
import json
import pickle
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

import geocollapse as geo
from geocollapse import data
from geocollapse.cli import main
from geocollapse.data.parquet import ImagesOfShards
from geocollapse.data.parquet_shards import Shard
from geocollapse.data.preprocessing import resize_and_crop
from geocollapse.models import LoadedModel, prepare

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
PLAIN = LoadedModel(torch.nn.Flatten(), "plain")
MODEL = ("measure", "torch.nn:Flatten")
SMALL = ("--image-size", "8", "--layer", "")


def png(grey, size=(9, 9)):
    file = io.BytesIO()
    Image.new("RGB", size, (grey, grey, grey)).save(file, "PNG")
    return file.getvalue()


def entries(greys, names=None):
    names = names or [None] * len(greys)
    return [{"bytes": png(g), "path": n} for g, n in zip(greys, names, strict=True)]


def declared(names, column="label"):
    features = {"image": {"_type": "Image"}, column: {"names": names, "_type": "ClassLabel"}}
    return {"huggingface": json.dumps({"info": {"features": features}})}


def write(path, images, labels, *, kind=IMAGE, names=None, columns=("image", "label"), rows=2):
    """A shard of row groups of ``rows`` rows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table(dict(zip(columns, (pa.array(images, kind), labels), strict=True)))
    if names is not None:
        table = table.replace_schema_metadata(declared(names, columns[1]))
    pq.write_table(table, path, row_group_size=rows)
    return f"parquet:{path}"


def greys(loaded):
    """The grey of each image, of 0 to 255."""
    mean, std = (torch.tensor(values)[:, None, None] for values in (loaded.mean, loaded.std))
    pixels = [255 * (loaded[row][0] * std + mean).mean() for row in range(len(loaded))]
    return [round(float(grey)) for grey in pixels]


def test_bytes_of_several_shards_in_order(tmp_path):
    for number in range(3):
        shades = [60 * number + 10 * place for place in range(5)]
        write(tmp_path / f"{number}.parquet", entries(shades), [0, 1, 2, 0, 1])
    loaded = data.load(f"parquet:{tmp_path}/*.parquet", image_size=8)
    assert greys(loaded) == [60 * n + 10 * place for n in range(3) for place in range(5)]
    assert loaded.targets.tolist() == [0, 1, 2, 0, 1] * 3
    assert (loaded.split, loaded.classes, loaded[0][0].shape) == ("all", ["0", "1", "2"], (3, 8, 8))
    assert greys(data.load(f"parquet:{tmp_path}", image_size=8)) == greys(loaded)
    order = [14, 0, 7, 8, 1, 14]
    assert [greys(loaded)[row] for row in order] == [
        round(float(255 * (loaded[row][0][0] * loaded.std[0] + loaded.mean[0]).mean()))
        for row in order
    ]


def test_the_mean_and_size_of_the_model_and_of_the_caller(tmp_path):
    spec = write(tmp_path / "x.parquet", entries([40, 80]), [0, 1])
    own = LoadedModel(torch.nn.Flatten(), "own", preprocessing=resize_and_crop("its own", 12))
    assert prepare(own, spec)[0][0].shape == (3, 12, 12)
    ready = prepare(PLAIN, spec, image_size=4, mean=(0.5,) * 3, std=(0.25,) * 3)
    assert float(ready[0][0].mean()) == pytest.approx((40 / 255 - 0.5) / 0.25, abs=1e-5)
    assert prepare(PLAIN, spec).preprocessing["crop"] == [224, 224]


@pytest.mark.parametrize("kind", [IMAGE, pa.struct([("path", pa.string())]), pa.string()])
def test_paths_are_relative_to_the_file(tmp_path, kind):
    (tmp_path / "set" / "img").mkdir(parents=True)
    for number, name in enumerate(("ä ö.png", "img/猫.png")):
        (tmp_path / "set" / name).write_bytes(png(50 * number))
    paths = ["ä ö.png", "img/猫.png", str(tmp_path / "set" / "ä ö.png")]
    images = paths if kind == pa.string() else [{"path": path} for path in paths]
    spec = write(tmp_path / "set" / "x.parquet", images, ["ä", "猫", "ä"], kind=kind)
    loaded = data.load(spec, image_size=8)
    assert (greys(loaded), loaded.classes) == ([0, 50, 0], ["ä", "猫"])


def test_a_plain_column_of_bytes(tmp_path):
    for kind in (pa.binary(), pa.large_binary()):
        spec = write(tmp_path / "x.parquet", [png(10), png(20)], [0, 1], kind=kind)
        assert greys(data.load(spec, image_size=8)) == [10, 20]


@pytest.fixture
def read(monkeypatch):
    """The row groups that are read, in order."""
    read = []
    original = Shard.read_images

    def counted(shard, group):
        read.append(group)
        return original(shard, group)

    monkeypatch.setattr(Shard, "read_images", counted)
    return read


@pytest.mark.parametrize("in_memory", [1, 10**9])
def test_each_row_group_is_read_once_in_any_order(tmp_path, monkeypatch, read, in_memory):
    """With one row group kept, a measurement of 600 images read 578 of them."""
    monkeypatch.setattr("geocollapse.data.spool._IN_MEMORY", in_memory)
    spec = write(tmp_path / "x.parquet", entries(range(40)), [0, 1] * 20, rows=5)
    loaded = data.load(spec, image_size=8)
    assert not read
    loaded[17]
    assert read == [3]
    geo.measure(torch.nn.Flatten(), loaded, layer="", estimator="exact", batch_size=4)
    assert sorted(read) == list(range(8))
    assert greys(loaded) == list(range(40))
    assert len(read) == 8
    assert greys(pickle.loads(pickle.dumps(loaded))) == list(range(40))
    assert len(read) == 16


def test_only_chosen_rows_are_kept(tmp_path, read):
    spec = write(tmp_path / "x.parquet", entries(range(40)), ["a", "b"] * 20, rows=10)
    chosen = data.load(spec, image_size=8, classes="b", subset=6)
    shades = greys(chosen)
    assert shades == chosen.rows.tolist()
    assert all(shade % 2 for shade in shades)
    encoded = chosen.folder.encoded
    assert isinstance(encoded, ImagesOfShards)
    assert sorted(encoded._spool._entries) == shades
    assert len(read) == len({shade // 10 for shade in shades})
    assert greys(chosen.select(subset=3)) == chosen.select(subset=3).rows.tolist()


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_worker_processes_read_for_themselves(tmp_path, context):
    spec = write(tmp_path / "x.parquet", entries(range(8)), [0, 1] * 4, rows=3)
    loaded = data.load(spec, image_size=8, mean=(0.0,) * 3, std=(1.0,) * 3)
    expected = loaded.in_memory().inputs  # this process has read, and holds a row group
    loading = DataLoader(loaded, 3, num_workers=2, multiprocessing_context=context)
    assert torch.equal(torch.cat([images for images, _ in loading]), expected)


def test_16_bit_images_keep_their_grey(tmp_path):
    file = io.BytesIO()
    Image.fromarray(np.full((10, 12), 20000, dtype=np.uint16)).save(file, "PNG")
    spec = write(tmp_path / "x.parquet", [{"bytes": file.getvalue()}], ["a"])
    assert greys(data.load(spec, image_size=8)) == [round(20000 / 65535 * 255)]


# labels


def test_names_of_hugging_face_keep_classes_without_examples(tmp_path):
    names = ["ant", "bee", "cat", "dog"]
    spec = write(tmp_path / "x.parquet", entries([1, 2]), [3, 1], names=names)
    loaded = data.load(spec, image_size=8)
    assert (loaded.classes, loaded.targets.tolist(), loaded.notes) == (names, [3, 1], ())
    chosen = data.load(spec, image_size=8, classes="dog,bee")
    assert (chosen.classes, chosen.targets.tolist()) == (["dog", "bee"], [0, 1])
    numbered = {str(number): name for number, name in enumerate(names)}
    spec = write(tmp_path / "y.parquet", entries([1, 2]), [3, 1], names=numbered)
    assert data.load(spec).classes == names


def test_strings_are_classes_in_order(tmp_path):
    spec = write(tmp_path / "x.parquet", entries([1, 2, 3]), ["zebra", "ant", "zebra"])
    loaded = data.load(spec)
    assert (loaded.classes, loaded.targets.tolist()) == (["ant", "zebra"], [1, 0, 1])
    coded = pa.array(["b", "a", "b"]).dictionary_encode()
    spec = write(tmp_path / "y.parquet", entries([1, 2, 3]), coded)
    assert data.load(spec).targets.tolist() == [1, 0, 1]


def test_numbers_with_gaps_are_renumbered_with_a_note(tmp_path):
    spec = write(tmp_path / "x.parquet", entries([1, 2, 3]), [30, 7, 30])
    loaded = data.load(spec)
    assert (loaded.classes, loaded.targets.tolist()) == (["7", "30"], [1, 0, 1])
    assert loaded.notes[0].startswith("classes: the labels 7, 30 are numbered 0 to 1; outputs of")


def test_one_class(tmp_path):
    loaded = data.load(write(tmp_path / "x.parquet", entries([1, 2]), ["only"] * 2))
    assert (loaded.classes, loaded.targets.tolist()) == (["only"], [0, 0])


@pytest.mark.parametrize(
    ("labels", "names", "message"),
    [
        ([0, None, None], None, "a label in each row of x.parquet, got none in 2 of 3 rows, first"),
        (["a", " ", "b"], None, "got none in 1 of 3 rows, first in row 1; do label or remove"),
        (pa.nulls(3), None, "got none in 3 of 3 rows, first in row 0"),
        ([-1, 0, -1], ["a", "b"], "numbers from 0 to 1, got others in 2 of 3 rows .* first -1 in"),
        ([0, 1, 2], ["a", "b"], "numbers from 0 to 1, got others in 1 of 3 rows .* 2 in row 2"),
        ([0.0, 1.0, 2.0], None, "label_column: expected integers or strings, got double in column"),
        ([True, False, True], None, "label_column: expected integers or strings, got bool"),
    ],
)
def test_labels_that_are_none_are_refused(tmp_path, labels, names, message):
    spec = write(tmp_path / "x.parquet", entries([1, 2, 3]), labels, names=names)
    with pytest.raises(ValueError, match=message):
        data.load(spec)


def test_shards_that_disagree_are_refused(tmp_path):
    write(tmp_path / "a.parquet", entries([1]), [0], names=["x"])
    write(tmp_path / "b.parquet", entries([2]), [0], names=["y"])
    with pytest.raises(ValueError, match="same names of classes in all files, got others in a.par"):
        data.load(f"parquet:{tmp_path}")
    write(tmp_path / "a.parquet", entries([1]), ["x"])
    write(tmp_path / "b.parquet", entries([2]), [0])
    with pytest.raises(ValueError, match="label_column: expected numbers or names in all files"):
        data.load(f"parquet:{tmp_path}")


# columns and files


def test_columns_by_name(tmp_path):
    path = tmp_path / "x.parquet"
    spec = write(path, entries([1, 2]), ["b", "a"], columns=("photo", "species"))
    loaded = data.load(spec, image_column="photo", label_column="species")
    assert loaded.classes == ["a", "b"]
    with pytest.raises(ValueError, match=r"columns image and label in x.parquet, got photo, spec"):
        data.load(spec)
    with pytest.raises(ValueError, match="image_column: .* got 'foto'; do image_column='photo'"):
        data.load(spec, image_column="foto", label_column="species")
    with pytest.raises(ValueError, match="image_column: expected a struct of bytes or path, got"):
        data.load(write(path, [1, 2], [1, 2], kind=pa.int64()))
    assert data.load(write(path, entries([1]), [0], columns=("img", "labels"))).classes == ["0"]


def test_columns_are_refused_where_there_are_none(tmp_path):
    spec = write(tmp_path / "x.parquet", entries([1, 2]), ["b", "a"])
    with pytest.raises(ValueError, match="text_column: expected None for parquet:.* no csv:FILE"):
        data.load(spec, text_column="text")
    with pytest.raises(ValueError, match="image_column: expected None for digits, which is no"):
        data.load("digits", image_column="image")
    with pytest.raises(ValueError, match="pad_to: expected None for images that are resized"):
        data.load(spec, pad_to=32)


def test_files_that_are_none_or_empty(tmp_path):
    path = tmp_path / "x.parquet"
    with pytest.raises(FileNotFoundError, match="expected .parquet files, got none that match"):
        data.load(f"parquet:{path}")
    for content in (b"", b"PAR1", b"text" * 100):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"got .*x.parquet, which cannot be read \(.*\); do"):
            data.load(f"parquet:{path}")
    spec = write(path, [], pa.array([], pa.int64()))
    with pytest.raises(ValueError, match=r"data: expected rows in x.parquet, got none"):
        data.load(spec)
    write(tmp_path / "y.parquet", entries([1, 2]), [0, 1])
    assert len(data.load(f"parquet:{tmp_path}")) == 2


def test_damage_behind_the_footer_names_the_file(tmp_path):
    spec = write(tmp_path / "x.parquet", entries(range(40)), [0, 1] * 20, rows=20)
    path = tmp_path / "x.parquet"
    content = bytearray(path.read_bytes())
    loaded = data.load(spec)
    content[4:200] = bytes(196)
    path.write_bytes(bytes(content))
    with pytest.raises(ValueError, match=r"got .*x.parquet, which cannot be read"):
        loaded[0]


def test_without_pyarrow_the_command_is_named(tmp_path, monkeypatch):
    spec = write(tmp_path / "x.parquet", entries([1]), [0])
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(ImportError, match=r'pyarrow, .* do pip install "geocollapse\[vision\]"'):
        data.load(spec)


# splits


def test_splits_of_file_names(tmp_path):
    for name, shade in (("train", 10), ("validation", 30), ("test", 50)):
        for part in range(2):
            path = tmp_path / "data" / f"{name}-0000{part}-of-00002.parquet"
            write(path, entries([shade + part]), [0])
    spec = f"parquet:{tmp_path}/data/*.parquet"
    assert greys(data.load(spec, image_size=8)) == [10, 11]
    assert greys(data.load(f"{spec}:test", image_size=8)) == [50, 51]
    for name in ("val", "validation"):
        loaded = data.load(f"{spec}:{name}", image_size=8)
        assert (greys(loaded), loaded.split) == ([30, 31], "val")
    with pytest.raises(ValueError, match="split: expected one of train, val, test of parquet:"):
        data.load(spec, split="extra")
    only = f"parquet:{tmp_path}/data/test-*"
    assert data.load(only).split == "test"
    write(tmp_path / "data" / "more.parquet", entries([1]), [0])
    with pytest.raises(ValueError, match=r"such as test-00000-of-00002.parquet, got more.parquet"):
        data.load(spec)


def test_splits_of_folders_and_a_path_with_a_colon(tmp_path):
    for name in ("train", "test"):
        write(tmp_path / "set" / name / "0000.parquet", entries([10]), [name])
    assert data.load(f"parquet:{tmp_path}/set", default_split="test").classes == ["test"]
    spec = write(tmp_path / "a:b" / "x.parquet", entries([10, 20]), [0, 1])
    assert data.parse_spec(spec) == (spec, None)
    assert data.parse_spec(f"{spec}:train") == (spec, "train")
    pattern = f"parquet:{tmp_path}/a:b/*.parquet"
    assert data.parse_spec(pattern) == (pattern, None)


# images that do not decode


def broken_set(tmp_path, kind):
    """Eight images of two classes, of which three do not decode."""
    shades, bad = range(0, 80, 10), (1, 2, 6)
    labels = ["a", "a", "a", "a", "b", "b", "b", "b"]
    content = [png(shade) for shade in shades]
    content[1] = content[1][:40]
    content[2] = b"no image"
    content[6] = b""
    if kind == "parquet":
        images = [{"bytes": c, "path": f"{row}.png"} for row, c in enumerate(content)]
        spec = write(tmp_path / "x.parquet", images, labels, rows=3)
        return spec, [f"{row}.png (row {row} of x.parquet)" for row in bad]
    for row, (label, c) in enumerate(zip(labels, content, strict=True)):
        (tmp_path / "img" / label).mkdir(parents=True, exist_ok=True)
        (tmp_path / "img" / label / f"{row}.png").write_bytes(c)
    return f"folder:{tmp_path / 'img'}", [f"{labels[row]}/{row}.png" for row in bad]


@pytest.mark.parametrize("kind", ["folder", "parquet"])
def test_the_first_broken_image_is_named_and_all_are_counted(tmp_path, kind):
    spec, _ = broken_set(tmp_path, kind)
    loaded = data.load(spec, image_size=8)
    first = "a/1.png" if kind == "folder" else "row 1 of .*x.parquet"
    message = (
        f"data: expected an image in .*{first}, got a damaged file .*, 3 of 8 images that do not "
        "decode; do replace or remove it, or leave such images out with skip_broken"
    )
    with pytest.raises(ValueError, match=message):
        loaded.in_memory()
    assert loaded[0][0].shape == (3, 8, 8)
    with pytest.raises(ValueError, match=r"another format \(not known to PIL\), 3 of 8 images"):
        loaded[2]


@pytest.mark.parametrize("kind", ["folder", "parquet"])
def test_broken_images_are_left_out_where_that_is_asked(tmp_path, kind):
    spec, names = broken_set(tmp_path, kind)
    loaded = data.load(spec, image_size=8, skip_broken=True)
    assert (greys(loaded), loaded.targets.tolist()) == ([0, 30, 40, 50, 70], [0, 0, 1, 1, 1])
    note = f"3 of 8 images do not decode and are left out: {', '.join(names)}"
    assert loaded.notes == (note,)
    chosen = data.load(spec, image_size=8, classes="b", skip_broken=True)
    assert chosen.notes == (f"1 of 4 images does not decode and is left out: {names[2]}",)
    measured = geo.measure(torch.nn.Flatten(), loaded, layer="", estimator="exact")
    assert note in measured.warnings
    whole = data.load(spec, image_size=8, classes="b", subset=1, skip_broken=True)
    assert (len(whole), whole.notes) == (1, ())


@pytest.mark.parametrize("kind", ["folder", "parquet"])
@pytest.mark.parametrize("command", ["measure", "transfer"])
def test_skip_broken_of_the_command_line(tmp_path, kind, command, capsys):
    spec, names = broken_set(tmp_path, kind)
    episodes = ("--n-way", "2", "--k-shot", "1", "--n-query", "1", "--n-episodes", "5")
    given = (command, "torch.nn:Flatten", spec, *SMALL, *(episodes if command != "measure" else ()))
    assert main(list(given)) == 2
    error = capsys.readouterr().err
    assert "3 of 8 images that do not decode" in error
    assert "(--skip-broken)" in error
    note = f"3 of 8 images do not decode and are left out: {', '.join(names)}"
    assert main([*given, "--skip-broken", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (note in result["warnings"], result["classes"]) == (True, ["a", "b"])
    assert main([*given, "--skip-broken"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "note: 3 of 8 images do not decode and are left out" in shown


def test_a_class_that_is_lost_is_an_error(tmp_path):
    images = [{"bytes": png(1)}, {"bytes": b"x"}, {"bytes": b"y"}]
    spec = write(tmp_path / "x.parquet", images, ["a", "b", "b"])
    with pytest.raises(ValueError, match="decodes in each class, got none of 2 in 'b'; do replace"):
        data.load(spec, skip_broken=True)


def test_many_broken_images_are_counted_and_the_first_named(tmp_path):
    images = [{"bytes": png(1)}] + [{"bytes": b"x", "path": None}] * 30
    spec = write(tmp_path / "x.parquet", images, ["a"] * 31)
    (note,) = data.load(spec, skip_broken=True).notes
    assert note.startswith("30 of 31 images do not decode and are left out: row 1 of x.parquet, ro")
    assert note.endswith("row 20 of x.parquet and 10 more")


def test_rows_without_an_image_do_not_decode(tmp_path):
    images = [{"bytes": png(1)}, None, {"bytes": None, "path": "none.png"}, {"bytes": None}]
    spec = write(tmp_path / "x.parquet", images, ["a"] * 4)
    loaded = data.load(spec)
    for row, got in ((1, "got none"), (2, "got no file .*none.png"), (3, "got none")):
        with pytest.raises(ValueError, match=f"row {row} of .*{got}, 3 of 4 images that do not"):
            loaded[row]
    assert len(data.load(spec, skip_broken=True)) == 1


def test_an_image_above_the_limit_does_not_decode(tmp_path, monkeypatch):
    images = [{"bytes": png(1)}, {"bytes": png(1, (40, 40))}]
    spec = write(tmp_path / "x.parquet", images, ["a"] * 2)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(ValueError, match="an image of at most 200 pixels, got a larger one in"):
        data.load(spec)[1]
    assert len(data.load(spec, skip_broken=True)) == 1


def test_skip_broken_is_refused_where_there_are_no_files():
    with pytest.raises(ValueError, match="skip_broken: expected False for digits, which is no fol"):
        data.load("digits", skip_broken=True)
    with pytest.raises(ValueError, match="skip_broken: expected False for data that are loaded"):
        prepare(PLAIN, data.load("digits"), skip_broken=True)
    assert main([*MODEL, "digits", "--skip-broken"]) == 2


# the command line


def test_a_path_without_its_kind_is_told_it(tmp_path, capsys):
    write(tmp_path / "x.parquet", entries([1]), [0])
    for path in (tmp_path / "x.parquet", tmp_path / "*.parquet", tmp_path):
        assert main([*MODEL, str(path)]) == 2
        assert f"do parquet:{path}" in capsys.readouterr().err


def test_columns_of_the_command_line(tmp_path, capsys):
    images = entries([1, 2, 90, 80])
    spec = write(tmp_path / "x.parquet", images, list("abab"), columns=("photo", "kind"))
    columns = ("--image-column", "photo", "--label-column", "kind")
    assert main([*MODEL, spec, *SMALL, *columns, "--json", "--num-workers", "1"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["n_samples"], result["classes"]) == (4, ["a", "b"])
    assert main([*MODEL, spec, *SMALL, "--image-column", "foto"]) == 2
    assert "error: --image-column: expected a column of x.parquet" in capsys.readouterr().err
    assert main(["data"]) == 0
    assert "parquet:GLOB columns image and label" in " ".join(capsys.readouterr().out.split())
