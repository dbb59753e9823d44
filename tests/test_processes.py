"""Several processes under torchrun: the numbers of one process, and refusals that hang nobody."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils.data import BatchSampler, DataLoader
from torch.utils.data.distributed import DistributedSampler

import shared_work
from geocollapse import cli
from geocollapse.batches import as_examples
from geocollapse.runtime.processes import digest

WORK = Path(shared_work.__file__)
REFUSED = {
    "sampler": "ValueError: sampler: expected num_replicas = world size {n}, got 7",
    "stream": (
        "ValueError: data: expected a data set that can be read in parts by several "
        "processes, got a stream of"
    ),
    "stream of inputs": (
        "ValueError: data: expected a data set that can be read in parts by several "
        "processes, got a"
    ),
    "seconds": (
        "ValueError: max_seconds: expected None with {n} processes, got 3; do max_samples= or rtol="
    ),
    "length": (
        "ValueError: data: expected a data set of the same length in each of {n} processes, "
        "got 100 in process 0"
    ),
    "positions": (
        "ValueError: data: expected the same positions and labels (by their digest) in each "
        "of {n} processes"
    ),
    "seed": (
        "ValueError: seed: expected the same setting in each of {n} processes, got 0 in "
        "process 0 and 1 in process"
    ),
    "weights": (
        "ValueError: model: expected the same weights and buffers (by their digest) in each "
        "of {n} processes"
    ),
    "inputs": (
        "ValueError: data: expected the same inputs (by their digest) in each of {n} processes, got"
    ),
    "shards": (
        "ValueError: data: expected the same inputs (by their digest) in each of {n} processes, got"
    ),
    "shards to read": (
        "ValueError: data: expected the same first examples in each of {n} processes, got others in"
    ),
    "architecture": (
        "ValueError: model: expected the same features of the first examples in each of {n} "
        "processes"
    ),
    "callable": (
        "ValueError: model: expected the same features of the first examples in each of {n} "
        "processes"
    ),
    "classifier": (
        "ValueError: classifier: expected the same setting in each of {n} processes, got "
        "None in process 0"
    ),
    "layer": (
        "ValueError: layer: expected the same setting in each of {n} processes, got ['0'] in "
        "process 0 and ['2']"
    ),
    "pool": (
        "ValueError: pool: expected the same setting in each of {n} processes, got mean in "
        "process 0 and cls in"
    ),
    "input_std": (
        "ValueError: input_std: expected the same setting in each of {n} processes, got "
        "[0.5] in process 0"
    ),
    "autocast": (
        "ValueError: autocast: expected the same setting in each of {n} processes, got None "
        "in process 0"
    ),
    "class_names": (
        "ValueError: class_names: expected the same setting in each of {n} processes, got "
        "None in process"
    ),
    "population": (
        "ValueError: population: expected the same setting in each of {n} processes, got "
        "dataset in process"
    ),
    "sampler of one's own in one": (
        "ValueError: processes: expected the same work in each of {n}, got 'sizes of rows'"
    ),
    "part wrapped": (
        "ValueError: model: expected DistributedDataParallel around the whole model or "
        "nowhere, got it at"
    ),
}
# What the last process raises, and the others, who are told so.
ENDED = {
    "one fails": (
        "ValueError: ",
        "ValueError: process {last}: ",
        "features: expected finite numbers, got NaN or inf",
    ),
    "one fails at once": (
        "AttributeError: ",
        "RuntimeError: process {last}: ",
        "'Tensor' object has no attribute",
    ),
    "argument": ("ValueError: ", "ValueError: process {last}: ", "n_probes: expected"),
    "argument of complexity": (
        "ValueError: ",
        "ValueError: process {last}: ",
        "n_probes: expected",
    ),
    "statistics": (
        "RuntimeError: ",
        "RuntimeError: process {last}: ",
        "model: expected examples that do not",
    ),
    "exit": ("SystemExit: 3", "RuntimeError: process {last}: SystemExit 3", ""),
    "interrupt": ("KeyboardInterrupt: ", "RuntimeError: process {last}: KeyboardInterrupt", ""),
    "room": ("RuntimeError: ", "RuntimeError: process {last}: ", "out of memory"),
    "disk": ("OSError: ", "OSError: process {last}: ", "no space left"),
    "end": ("MemoryError: ", "RuntimeError: process {last}: ", "out of memory"),
}


def started(n_processes, *arguments):
    launcher = ["torch.distributed.run", "--standalone", "--nproc-per-node", str(n_processes)]
    return subprocess.run(
        [sys.executable, "-m", *launcher, *arguments], capture_output=True, text=True, timeout=300
    )


def launch(n_processes, folder, factory):
    """The findings of each of n processes, which meet at a free port."""
    done = started(n_processes, WORK, folder, factory)
    assert done.returncode == 0, done.stderr
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(n_processes)]


def assert_same(found, expected, where):
    """Equal trees: numbers to 1e-10, all else exactly."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys(), where
        for key in expected:
            assert_same(found[key], expected[key], f"{where}.{key}")
    elif isinstance(expected, list):
        assert len(found) == len(expected), where
        for row, pair in enumerate(zip(found, expected)):
            assert_same(*pair, f"{where}[{row}]")
    elif isinstance(expected, float):
        assert math.isclose(found, expected, rel_tol=1e-10, abs_tol=1e-13), (where, found, expected)
    else:
        assert found == expected, where


def assert_the_numbers_of_one(ranks):
    """Each process has what this process finds alone, also after the refusals."""
    for name in ranks[0]["cases"]:
        expected = json.loads(json.dumps(shared_work.CASES[name]()))
        for rank, found in enumerate(ranks):
            assert_same(found["cases"][name], expected, f"{name}, process {rank}")
            assert_same(
                found["after"].get(name, expected), expected, f"{name} after errors, process {rank}"
            )


def assert_rows_in_the_order_of_the_ranks(ranks):
    rows = (torch.arange(24).reshape(6, 2, 2) % 3)[: 4 * (len(ranks) - 1)]
    for found in (rank["sent"] for rank in ranks):
        assert found["object"] == ["aaa"] * len(ranks)
        assert found["agreed"] == 3.5
        assert found["dtypes"] == {
            str(dtype): rows.to(dtype).double().tolist() for dtype in shared_work.DTYPES
        }
        assert found["last"] == [[1.0, 1.0]] * 3
        assert found["none"] == []


def assert_refused_in_every_process(ranks):
    for found in ranks:
        for name, start in REFUSED.items():
            assert found["refused"][name].startswith(start.format(n=len(ranks))), found["refused"][
                name
            ]


def assert_one_error_ended_all(ranks):
    *others, last = (found["refused"] for found in ranks)
    assert shared_work.BAD.keys() == REFUSED.keys() | ENDED.keys()
    for name, (there, elsewhere, message) in ENDED.items():
        assert last[name].startswith(there + message), last[name]
        for found in others:
            assert found[name].startswith(elsewhere.format(last=len(others)) + message), found[name]


def test_two_processes_under_torchrun(tmp_path, capsys):
    ranks = launch(2, tmp_path, "network")
    assert ranks[0]["cases"].keys() == shared_work.CASES.keys()
    assert_the_numbers_of_one(ranks)
    assert_rows_in_the_order_of_the_ranks(ranks)
    assert_refused_in_every_process(ranks)
    assert_one_error_ended_all(ranks)
    first, second = (found["command"] for found in ranks)
    assert second == {"code": 0, "out": "", "err": "", "wrote": False}
    assert (first["code"], first["err"], first["wrote"]) == (0, "", True)
    assert cli.main([*shared_work.arguments(tmp_path, "network"), "--quiet"]) == 0
    found, expected = json.loads(first["out"]), json.loads(capsys.readouterr().out)
    origins = found.pop("provenance"), expected.pop("provenance")
    assert [origin["n_processes"] for origin in origins] == [2, 1]
    assert_same(found, expected, "measure --json")


def test_three_processes_under_torchrun(tmp_path):
    ranks = launch(3, tmp_path, "missing")
    assert_the_numbers_of_one(ranks)
    assert_rows_in_the_order_of_the_ranks(ranks)
    assert_refused_in_every_process(ranks)
    assert_one_error_ended_all(ranks)
    error = ranks[0]["command"].pop("err")
    assert error.startswith("error: process 1: model: expected ")
    assert "got FileNotFoundError: weights: expected a file, got nothing; do look here" in error
    silent = {"code": 2, "out": "", "wrote": False}
    assert [found["command"] for found in ranks] == [silent, *2 * [silent | {"err": ""}]]


def test_a_model_file_that_exits_in_one_process_ends_the_command(tmp_path):
    done = started(2, "-m", "geocollapse", *shared_work.arguments(tmp_path, "leaving"))
    line = next(line for line in done.stderr.splitlines() if line.startswith("error: process 1: "))
    assert line.startswith("error: process 1: model: expected ")
    assert "got SystemExit: 3; do check the factory" in line
    assert done.returncode != 0
    assert done.stdout == ""


def test_other_commands_are_refused_under_torchrun(monkeypatch, capsys):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert cli.main(["models"]) == 2
    assert (
        "torchrun: expected the command measure, got models in 2 processes"
        in capsys.readouterr().err
    )


@pytest.mark.parametrize(
    "option", [["--help"], ["--version"], ["measure", "--help"], ["measure", "--json-schema"]]
)
def test_one_process_answers_for_all(option, monkeypatch, capsys):
    def answer(rank):
        monkeypatch.setenv("RANK", rank)
        assert cli.main(option) == 0
        return capsys.readouterr().out

    monkeypatch.setenv("WORLD_SIZE", "2")
    assert answer("0").strip()
    assert answer("1") == ""


def test_a_part_of_the_data_is_refused_in_one_process():
    dataset = shared_work.Rows(*shared_work.examples(20))
    sampler = DistributedSampler(dataset, num_replicas=2, rank=0)
    loaders = (
        DataLoader(dataset, sampler=sampler),
        DataLoader(dataset, batch_sampler=BatchSampler(sampler, 4, drop_last=False)),
    )
    for loader in loaders:
        with pytest.raises(
            ValueError,
            match="sampler: expected num_replicas = world size 1, got 2, .*do init_process",
        ):
            as_examples(loader)


@pytest.mark.parametrize("n_processes", [1, 2, 3, 7])
def test_a_share_is_some_of_the_batches_as_they_are(n_processes):
    examples = as_examples(shared_work.examples(500), batch_size=32)
    segments = examples.indices.split([130, 20, 350])
    whole = [(batch.segment, batch.indices.tolist()) for batch in examples.batches(*segments)]
    shares = [
        list(examples.batches(*segments, share=(rank, n_processes))) for rank in range(n_processes)
    ]
    parts = [[(batch.segment, batch.indices.tolist()) for batch in share] for share in shares]
    assert sorted(part for share in parts for part in share) == sorted(whole)
    assert all(part == sorted(part, key=whole.index) for part in parts)
    sizes = [sum(len(batch.indices) for batch in share) for share in shares]
    assert max(sizes) - min(sizes) <= 32


@pytest.mark.parametrize("dtype", [*shared_work.DTYPES, torch.complex64])
def test_a_digest_tells_values_and_their_order(dtype):
    x = torch.tensor([0, 1, 1, 1, 0, 0]).to(dtype)
    assert digest(x) == digest(x.clone())
    assert digest(x, None) == digest(x)
    assert digest(x.reshape(3, 2).T) != digest(x)
    assert digest(x[:3], x[3:]) != digest(x[3:], x[:3])
