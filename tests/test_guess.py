"""Rankings of a target without labels: an order by RankMe, and said to be a guess."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import geocollapse as geo
from geocollapse import data
from geocollapse.cli import main
from geocollapse.data.labelled import UNLABELLED
from geocollapse.measures import SCORES
from geocollapse.ranking.guess import GUESS, GUESSED_BY

NETWORKS = """
import torch
from torch import nn


def _net(width):
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(192, width), nn.ReLU(), nn.Linear(width, 10))


def wide():
    return _net(48)


def narrow():
    return _net(6)
"""


class Cut(nn.Module):
    """The first features of the inputs."""

    def __init__(self, width):
        super().__init__()
        self.width = width

    def forward(self, x):
        return 2.0 * x[:, : self.width]


def inputs(n=80, p=16):
    return torch.randn(n, p, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """A folder of images without class folders, and a file of two networks beside it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nets.py").write_text(NETWORKS)
    (tmp_path / "photos").mkdir()
    rng = np.random.default_rng(0)
    for number in range(30):
        pixels = rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{number}.png")
    return tmp_path / "photos"


def test_models_are_ordered_by_rankme_and_nothing_is_claimed_to_be_measured():
    x = inputs()
    ranking = geo.rank({"narrow": Cut(4), "wide": Cut(12)}, x, layer="")
    assert [model.label for model in ranking.models] == ["wide", "narrow"]
    assert ranking.ranked_by == GUESSED_BY
    for model in ranking.models:
        assert model.scores[GUESSED_BY].value == pytest.approx(geo.rankme(model.kept.features))
        assert (model.accuracy, model.predicted_accuracy, model.curve) == (None, None, {})
        assert model.warnings[0] == GUESS
    assert (ranking.pairs, ranking.agreement) == ([], {})
    found = ranking.to_dict()
    assert [model["tied_with"] for model in found["models"]] == [[], []]
    assert (found["classes"], found["n_way"], found["n_episodes"]) == ([], 0, 0)


def test_every_line_says_that_it_is_a_guess_and_the_first_is_the_answer():
    lines = str(geo.rank({"a": Cut(4), "b": Cut(12)}, inputs(), layer="")).splitlines()
    assert lines[0].startswith("A guess without labels: b comes first by RankMe alone")
    rows = [line for line in lines if line.startswith(("a ", "b "))]
    assert len(rows) == 2
    assert all(row.endswith(GUESS) for row in rows)
    assert "note: RankMe is at most the number of features or of examples: b 12, a 4" in lines


def test_scores_without_labels_are_those_with_labels():
    """Labels change neither value nor unit; errors are of other strata."""
    x = inputs(400)
    y = torch.arange(400) % 2
    std = torch.ones(1)
    with_labels = torch.utils.data.TensorDataset(x, y)
    without = torch.utils.data.TensorDataset(x, torch.zeros_like(y))
    for dataset in (with_labels, without):
        dataset.std = std
    ranked = [
        geo.rank({"a": Cut(12)}, dataset, layer="", gc_samples=400, n_episodes=20).models[0]
        for dataset in (with_labels, without)
    ]
    for name in ("label_free.rankme", "label_free.alpha_req", "per_pixel.gc_per_variance"):
        a, b = (model.scores[name] for model in ranked)
        assert a.valid == b.valid
        rtol = 1e-4 if "variance" in name else 1e-9  # classes have estimated means
        assert b.value == pytest.approx(a.value, rel=rtol, nan_ok=True), name
        if a.valid:
            assert b.estimate.stderr == pytest.approx(a.estimate.stderr, rel=0.1), name
    assert {name for name, score in ranked[1].scores.items() if score.null} == set()
    assert all(SCORES[name].needs == "nothing" for name in ranked[1].scores)
    first, second = (model.geometric_complexity.value for model in ranked)
    assert second == pytest.approx(first, rel=1e-9)


def test_a_mode_that_needs_labels_is_refused_and_one_class_is_named():
    with pytest.raises(ValueError, match="mode: expected None for a target without labels"):
        geo.rank({"a": Cut(4)}, inputs(), layer="", mode="predicted")
    cats = torch.utils.data.TensorDataset(inputs(), torch.zeros(80, dtype=torch.int64))
    cats.classes = ["cat"]
    ranking = geo.rank({"a": Cut(4)}, cats, layer="")
    (warning,) = ranking.warnings
    assert warning == "all examples are of class 'cat', which says as little as no labels"
    assert "the only model" in ranking.advice


def test_a_features_file_without_labels_is_ranked_and_still_not_measured(tmp_path):
    for name, width in (("a", 4), ("b", 12)):
        np.savez(tmp_path / f"{name}.npz", features=inputs()[:, :width].numpy())
    ranking = geo.rank({name: tmp_path / f"{name}.npz" for name in ("a", "b")})
    assert [model.label for model in ranking.models] == ["b", "a"]
    assert ranking.models[0].geometric_complexity is None
    with pytest.raises(ValueError, match="got one without labels"):
        geo.measure_features(tmp_path / "a.npz")


def test_a_flat_folder_of_images_is_ranked_from_the_command_line(photos, capsys):
    arguments = ["rank", "nets.py:narrow", "nets.py:wide", "--data", f"folder:{photos}"]
    arguments += ["--image-size", "8", "--no-cache", "--quiet"]
    assert main([*arguments, "--report", "r"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("A guess without labels: nets.py:wide comes first by RankMe alone")
    page = (photos.parent / "r" / "report.html").read_text()
    assert "30 examples without labels. Nothing was measured or predicted" in page
    assert page.count(GUESS) >= 3
    assert main([*arguments, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [model["label"] for model in found["models"]] == ["nets.py:wide", "nets.py:narrow"]
    assert all(GUESS in model["warnings"] for model in found["models"])
    assert {model["scores"]["per_pixel.gc_per_variance"]["valid"] for model in found["models"]} == {
        True
    }


def test_data_without_labels_are_one_class_where_no_labels_are_required(photos):
    found = data.load(f"folder:{photos}", require_labels=False)
    assert (len(found), found.classes, set(found.targets.tolist())) == (30, [UNLABELLED], {0})
    with pytest.raises(ValueError, match="expected a folder for each class"):
        data.load(f"folder:{photos}")
    table = photos.parent / "texts.csv"
    table.write_text("text\nwhere is my card\nhow do I pay\n")
    texts = data.load(f"csv:{table}", require_labels=False)
    assert (texts.texts, texts.classes) == (["where is my card", "how do I pay"], [UNLABELLED])
    with pytest.raises(ValueError, match="expected columns text and label"):
        data.load(f"csv:{table}")
    with pytest.raises(ValueError, match="label_column: expected a column"):
        data.load(f"csv:{table}", label_column="intent", require_labels=False)
    labelled = photos.parent / "labelled.csv"
    labelled.write_text("text,label\na,x\nb,y\n")
    assert data.load(f"csv:{labelled}", require_labels=False).classes == ["x", "y"]
