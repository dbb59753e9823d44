"""Occam's razor in one dimension: the example at a loss of few steps, and what its page says.

`REWRITE_PAGES=1 pytest tests/test_occams_razor.py` makes the table of the page anew.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]
STORED = ROOT / "docs" / "figures" / "occams_razor.json"
PAGE = ROOT / "docs" / "regularisers.md"
BLOCK = re.compile(r"(<!-- fits: figures/occams_razor.json -->\n)(.*?)(<!-- end of fits -->)", re.S)
LOSS = 0.05


@pytest.fixture(scope="module")
def example() -> ModuleType:
    path = ROOT / "examples" / "occams_razor.py"
    spec = importlib.util.spec_from_file_location("occams_razor", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["occams_razor"] = module  # its dataclass looks itself up
    spec.loader.exec_module(module)
    return module


def test_both_rates_reach_one_loss_and_no_curve_is_longer_than_its_energy_allows(
    example: ModuleType,
) -> None:
    fits = [example.fit(rate, loss_at_end=LOSS) for rate in (0.002, 0.008)]
    for fit in fits:
        assert 0.99 * LOSS < fit.loss <= LOSS
        assert 1.0 < fit.length <= 1.0 + fit.energy / 2.0
        slopes = fit.curve.diff() * (len(fit.curve) - 1)
        assert float(slopes.square().mean()) == pytest.approx(fit.energy, rel=2e-3)
    assert fits[0].steps > 2 * fits[1].steps


def test_a_loss_that_is_not_reached_is_an_error(example: ModuleType) -> None:
    """Negative control: curves of two losses must not get into the table."""
    with pytest.raises(RuntimeError, match="loss: expected at most 0.05 after 3 steps of rate"):
        example.fit(0.002, loss_at_end=LOSS, most_steps=3)


def test_the_command_prints_json_and_draws(
    example: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    figure = tmp_path / "razor.png"
    arguments = ["--loss", "0.3", "--seeds", "1", "--figure", str(figure)]
    example.main([*arguments, "--json"])
    printed = json.loads(capsys.readouterr().out)
    assert printed["loss_at_end"] == 0.3
    assert [fit["rate"] for fit in printed["fits"]] == [0.002, 0.008]
    assert set(printed["fits"][0]) == {"seed", "rate", "steps", "loss", "energy", "length"}
    assert figure.stat().st_size > 10_000
    example.main(arguments)
    assert len(capsys.readouterr().out.splitlines()) == 3


def table(stored: dict[str, list[dict[str, float]]]) -> str:
    rows = [
        f"| {fit['seed']} | {fit['rate']:g} | {fit['steps']:,} | {fit['energy']:.1f} | "
        f"{fit['length']:.2f} |"
        for fit in stored["fits"]
    ]
    head = ["| seed | rate | steps | Dirichlet energy | arc length |", "|---|---|---|---|---|"]
    return "".join(f"{line}\n" for line in head + rows)


def test_the_page_says_what_is_stored() -> None:
    stored = json.loads(STORED.read_text(encoding="utf-8"))
    text = PAGE.read_text(encoding="utf-8")
    if os.environ.get("REWRITE_PAGES"):
        PAGE.write_text(BLOCK.sub(rf"\g<1>{table(stored)}\g<3>", text), encoding="utf-8")
        return
    found = BLOCK.search(text)
    assert found is not None
    assert found[2] == table(stored)
    small, large = stored["fits"][::2], stored["fits"][1::2]
    shorter = [a["seed"] for a, b in zip(small, large, strict=True) if b["length"] < a["length"]]
    assert len(shorter) == 1
    assert len(small) == 3
    assert "the large rate has the shorter curve for one seed of three" in " ".join(text.split())
    for fit in stored["fits"]:
        assert 0.99 * stored["loss_at_end"] < fit["loss"] <= stored["loss_at_end"]
        assert fit["length"] <= 1.0 + fit["energy"] / 2.0
