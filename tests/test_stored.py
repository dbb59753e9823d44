"""A sweep kept without its weights, compressed, is still a sweep folder."""

import gzip
import json

import pytest

from geocollapse.cli import main
from geocollapse.experiments.recipe import Recipe
from geocollapse.experiments.results.folders import SweepFolder
from geocollapse.experiments.results.stored import store
from geocollapse.experiments.results.tables import read_sweep
from geocollapse.experiments.sweep import run_sweep
from geocollapse.papers.registry import judge
from geocollapse.papers.verdict import to_json
from synthetic_sweep import write_sweep

TINY = {
    "name": "tiny",
    "title": "One run",
    "data": {"name": "digits", "source_classes": [0, 1, 2], "subset": 60},
    "model": {"name": "mlp", "args": {"hidden": [8]}},
    "training": {"learning_rate": 0.05, "batch_size": 16, "max_steps": 6},
    "measuring": {"every": 3, "points": None},
}


def test_a_stored_sweep_reads_as_the_one_it_is_a_copy_of(tmp_path):
    whole = write_sweep(tmp_path / "whole", sampling=5)
    copy = store(whole, tmp_path / "copy")
    one, two = read_sweep(whole), read_sweep(copy)
    assert two.problems == ()
    assert one.runs.equals(two.runs)
    assert one.history.equals(two.history)
    assert one.sampling.equals(two.sampling)
    assert [to_json(v) for v in judge(one)] == [to_json(v) for v in judge(two)]


def test_the_copy_is_small_and_the_same_each_time(tmp_path):
    whole = write_sweep(tmp_path / "whole")
    files = [
        {path.relative_to(out): path.read_bytes() for path in out.rglob("*") if path.is_file()}
        for out in (store(whole, tmp_path / "a"), store(whole, tmp_path / "b"))
    ]
    assert files[0] == files[1]
    size = sum(path.stat().st_size for path in whole.rglob("*.json*"))
    assert sum(len(text) for path, text in files[0].items() if path.suffix == ".gz") < 0.35 * size
    assert store(tmp_path / "a", tmp_path / "c") == tmp_path / "c"
    assert read_sweep(tmp_path / "c").problems == ()


def test_a_stored_run_is_not_done_again_and_a_damaged_one_is(tmp_path):
    recipe = Recipe.of(TINY)
    run_sweep(recipe, tmp_path / "whole", workers=1, progress=False)
    copy = store(tmp_path / "whole", tmp_path / "copy")
    assert not list(copy.rglob("*.safetensors"))
    again = run_sweep(recipe, copy, workers=1, progress=False)
    assert (again.n_done, again.n_skipped) == (0, 1)
    history = next(copy.glob("runs/*/history.jsonl.gz"))
    lines = gzip.decompress(history.read_bytes()).replace(b'"step": 3', b'"step": 4', 1)
    history.write_bytes(gzip.compress(lines))
    again = run_sweep(recipe, copy, workers=1, progress=False)
    assert again.n_done == 1
    assert history.with_name("history.jsonl.gz.corrupt").is_file()
    one = read_sweep(copy).runs["source.cdnv"]
    assert one.equals(read_sweep(tmp_path / "whole").runs["source.cdnv"])


@pytest.mark.parametrize("content", [b"", b"no gzip", gzip.compress(b"{}" * 99, mtime=0)[:-9]])
def test_a_result_that_cannot_be_decompressed_is_named_and_set_aside(tmp_path, content):
    copy = store(write_sweep(tmp_path / "whole"), tmp_path / "copy")
    result = next(copy.glob("runs/*/result.json.gz"))
    result.write_bytes(content)
    (problem,) = read_sweep(copy).problems
    assert problem == f"run {result.parent.name}: result.json is not used: it is not a result"
    run = SweepFolder(copy).run(result.parent.name)
    assert run.result() is None
    assert result.with_name("result.json.gz.corrupt").is_file()


def test_the_command_writes_the_report_of_the_copy(tmp_path, capsys):
    whole = write_sweep(tmp_path / "whole")
    assert main(["report", str(whole), "--store", str(tmp_path / "copy"), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["report"] == str(tmp_path / "copy" / "report.html")
    assert (tmp_path / "copy" / "verdicts.json").is_file()
    assert not (whole / "report.html").exists()
    assert main(["report", str(whole), "--store", str(whole)]) == 2
    assert "error: --store: expected another folder" in capsys.readouterr().err
