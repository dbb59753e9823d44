"""Verdicts on Morse networks as detectors, on benchmarks that are made up."""

import json

import pytest

from geocollapse.papers.morse.claims import CHOSEN_ON, CLAIMS, SETS
from geocollapse.papers.registry import benchmark_papers

AS_PUBLISHED = {
    "Morse, with labels": dict(zip(SETS, (0.80, 0.90, 0.92, 0.95, 0.97), strict=True)),
    "Morse, without labels": dict.fromkeys(SETS, 0.6),
    "kNN": dict.fromkeys(SETS, 0.85),
    "ViM": dict.fromkeys(SETS, 0.90),
    "MSP": dict.fromkeys(SETS, 0.70),
}
OTHERS = ("resnet32", "resnet44", "resnet56")


def stored(tmp_path, values, networks=OTHERS, seeds=3):
    """A file of the benchmark in which network and seed move all values of a detector a little."""
    cells = {}
    for i, network in enumerate(networks):
        for j, (detector, of_sets) in enumerate(values.items()):
            for seed in range(1 if detector == "MSP" else seeds):
                shift = 0.001 * ((i * (j + 2)) % 3 + (seed - 1))
                cells[f"{network}/{detector}/{seed}"] = {
                    "fit_seconds": 1.0,
                    "microseconds_per_image": 1.0,
                    **{
                        name: {"auroc": of_sets[name] + shift, "auroc_stderr": 0.002, "fpr95": 0.5}
                        for name in SETS
                    },
                }
    path = tmp_path / "ood.json"
    path.write_text(json.dumps({"n": 10, "machine": {}, "cells": cells}))
    return path


def judged(path):
    return [(one.claim, one.verdict) for one in benchmark_papers()["morse"].judge(path)]


def outcomes(path, claim):
    return [verdict for name, verdict in judged(path) if name == claim]


def test_every_claim_can_hold(tmp_path):
    path = stored(tmp_path, AS_PUBLISHED)
    assert {verdict for _, verdict in judged(path)} == {"holds"}
    assert {name for name, _ in judged(path)} == {claim.name for claim in CLAIMS}
    rivals = benchmark_papers()["morse"].judge(path)[-3:]
    assert [one.remark for one in rivals] == [f"ahead on {n} of 5 sets" for n in (4, 3, 5)]
    assert rivals[0].effect == pytest.approx(0.908 - 0.85, abs=0.002)


def test_every_claim_can_fail(tmp_path):
    near = AS_PUBLISHED | {"Morse, with labels": {**dict.fromkeys(SETS, 0.4), "cifar100": 0.5}}
    path = stored(tmp_path, near)
    assert {verdict for _, verdict in judged(path)} == {"does not hold"}


def test_each_rival_is_judged_apart_and_the_margin_is_a_hundredth(tmp_path):
    own = sum(AS_PUBLISHED["Morse, with labels"].values()) / 5
    close = AS_PUBLISHED | {
        "kNN": dict.fromkeys(SETS, own + 0.005),
        "ViM": dict.fromkeys(SETS, own + 0.020),
        "MSP": dict.fromkeys(SETS, own + 0.010),
    }
    found = outcomes(stored(tmp_path, close), "morse-as-good")
    assert found == ["holds", "does not hold", "undecided"]


def test_two_networks_decide_nothing_and_the_one_of_the_defaults_does_not_count(tmp_path):
    path = stored(tmp_path, AS_PUBLISHED, (CHOSEN_ON, *OTHERS[:2]))
    assert {verdict for _, verdict in judged(path)} == {"undecided"}
    first = benchmark_papers()["morse"].judge(path)[0]
    assert first.n_runs == 2
    assert first.note == "2 networks: below 3 a verdict is always undecided."
    none = benchmark_papers()["morse"].judge(stored(tmp_path, AS_PUBLISHED, (CHOSEN_ON,)))
    assert {one.n_runs for one in none} == {0}


def test_a_network_with_seeds_that_are_missing_does_not_count(tmp_path):
    path = stored(tmp_path, AS_PUBLISHED)
    content = json.loads(path.read_text())
    del content["cells"]["resnet44/kNN/1"]
    path.write_text(json.dumps(content))
    assert {one.n_runs for one in benchmark_papers()["morse"].judge(path)} == {2}
