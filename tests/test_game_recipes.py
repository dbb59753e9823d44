"""Games as recipes: what is refused, one run and its folder, sweeps, and the verdicts on them."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from geocollapse.charts.labels import axis_label
from geocollapse.cli import main
from geocollapse.dynamics import Turn, game
from geocollapse.experiments.cost import estimate_cost
from geocollapse.experiments.games import play
from geocollapse.experiments.games.digits_gan import (
    DigitsGan,
    digits,
    ending,
    squared_frechet_distance,
)
from geocollapse.experiments.games.play import arena_of, play_run
from geocollapse.experiments.games.turns import Moves
from geocollapse.experiments.games.two_numbers import TwoNumbers
from geocollapse.experiments.kinds import KINDS, kind_of
from geocollapse.experiments.recipe import (
    GameRecipe,
    GameRunConfig,
    Recipe,
    SupervisedRecipe,
    identity,
    load_recipe,
    recipe_names,
    run_id,
)
from geocollapse.experiments.recipe.settings import known_keys
from geocollapse.experiments.results.folders import RunFolder, SweepFolder, load_model
from geocollapse.experiments.results.stored import store
from geocollapse.experiments.results.tables import SweepResults, read_sweep
from geocollapse.experiments.sweep import run_sweep
from geocollapse.papers.registry import find_papers, judge, papers
from geocollapse.papers.statistics import mcnemar_p, paired_share_interval
from geocollapse.papers.verdict import Verdict
from geocollapse.reports.two_runs import compare_runs
from geocollapse.reports.writing import write_report

GAMES = ("bilinear-game", "dirac-gan", "digits-gan-drift")
DIRAC: dict[str, Any] = {
    "kind": "game",
    "name": "small",
    "title": "A few turns",
    "game": "dirac-gan",
    "learning_rates": [0.2, 0.1],
    "n_turns": 6,
    "record_every": 2,
}


def config(**values: Any) -> GameRunConfig:
    """The small game with keys set."""
    kept = {key: DIRAC[key] for key in DIRAC if key not in ("name", "title")}
    return GameRunConfig.of(kept | values)


def lines_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]


def timeless(value: Any) -> Any:
    """A record without its times."""
    if isinstance(value, dict):
        return {k: timeless(v) for k, v in value.items() if k not in ("seconds", "history_sha256")}
    return value


def outcome(folder: Path) -> tuple[Any, ...]:
    """What a run left, without times and provenance."""
    result = json.loads((folder / "result.json").read_text())
    del result["provenance"]
    return timeless(result), [timeless(line) for line in lines_of(folder)]


# ---- recipes


def test_a_recipe_is_of_its_kind() -> None:
    kinds = {name: load_recipe(name).run_config().kind for name in recipe_names()}
    assert {name for name, kind in kinds.items() if kind == "game"} == set(GAMES)
    assert set(kinds.values()) == set(KINDS)
    assert isinstance(Recipe.of(DIRAC), GameRecipe)
    assert isinstance(GameRecipe.of(DIRAC), GameRecipe)
    assert isinstance(load_recipe("demo"), SupervisedRecipe)
    assert Recipe.of(load_recipe("demo").to_dict() | {"kind": "supervised"}) == load_recipe("demo")


@pytest.mark.parametrize("name", ["demo", *GAMES])
def test_an_expanded_recipe_keeps_the_order_of_its_keys(name: str) -> None:
    recipe = load_recipe(name)
    keys = list(recipe.to_dict())
    assert keys[:5] == ["name", "title", "paper", "source", "cost"]
    assert keys[-3:] == ["sweeps", "claims", "presets"]
    assert ("kind" in keys) == (name != "demo")
    assert set(keys) == set(type(recipe).model_fields)
    assert Recipe.of(recipe.to_dict()) == recipe


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kind": "duel"}, "recipe: kind: expected supervised or game, got 'duel'; do kind: supe"),
        ({"kind": None}, "recipe: kind: expected supervised or game, got None"),
        (
            {"game": "chess"},
            "recipe: game: expected 'bilinear', 'dirac-gan' or 'digits-gan', got '",
        ),
        ({"learning_rates": [0.1, 0.0]}, r"learning_rates: expected more than 0\.0, got 0\.0"),
        ({"learning_rates": [0.1]}, "recipe: learning_rates: expected at least 2 values, got"),
        ({"learning_rates": [0.1] * 3}, "recipe: learning_rates: expected at most 2 values, got"),
        ({"cancel": "drift"}, "recipe: cancel: expected 'none', 'interaction', 'self' or 'both', "),
        ({"cancel_weight": -1.0}, "recipe: cancel_weight: expected at least 0.0, got -1.0"),
        ({"n_updates": [0, 1]}, "recipe: n_updates: expected at least 1, got 0"),
        ({"n_turns": 0}, "recipe: n_turns: expected at least 1, got 0"),
        (
            {"spectral_norm": True},
            "recipe: spectral_norm: expected false with the game dirac-gan, which ha",
        ),
        ({"training": {"learning_rate": 0.1}}, "recipe: training: unknown key; do "),
        ({"transfer": {}}, "recipe: transfer: unknown key; do "),
        (
            {"claims": {"expected_signs": {"cancel_weight": 1}}},
            "recipe: claims.expected_signs: expected none in a recipe of games, whose claims have "
            "signs of their own, got cancel_weight; do leave claims.expected_signs out",
        ),
    ],
)
def test_bad_games_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Recipe.of(DIRAC | values)


@pytest.mark.parametrize("claims", [{}, {"expected_signs": {}}, {"coverage": 0.9}])
def test_the_paper_of_a_game_follows_from_its_kind(claims: dict[str, Any]) -> None:
    recipe = Recipe.of(DIRAC | {"claims": claims})
    assert recipe.claims.papers == ["games"]
    assert find_papers(recipe.claims.papers, "game")
    assert Recipe.of(recipe.to_dict()) == recipe
    with pytest.raises(ValueError, match="claims.expected_signs: expected none in a recipe of ga"):
        recipe.with_overrides(["claims.expected_signs.n_turns=1"])
    supervised = load_recipe("demo").to_dict() | {"claims": claims}
    assert Recipe.of(supervised).claims.papers == ["collapse-transfer"]


def test_a_key_of_the_other_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="recipe: training: unknown key; do "):
        Recipe.of(DIRAC).with_overrides(["training.learning_rate=0.1"])
    with pytest.raises(ValueError, match="recipe: cancel: unknown key; do "):
        load_recipe("demo").with_overrides(["cancel=self"])
    with pytest.raises(
        ValueError, match="recipe: kind: expected supervised, got 'game'; do kind: "
    ):
        load_recipe("demo").with_overrides(["kind=game"])
    for key in ("training.learning_rate", "kind", "seed"):
        with pytest.raises(
            ValueError, match=f"expected a key of a run's .* got '{key}'; do sweep "
        ):
            Recipe.of(DIRAC | {"sweeps": {"one": {key: [1]}}}).planned_runs()


def test_the_name_of_a_game_is_pinned() -> None:
    pinned = set().union(*identity.GAME_VERSION_1.values()) | set(identity.GAME_LATER)
    assert set(known_keys(GameRunConfig)) == pinned
    assert run_id(config()) == "0005de6e9c99"
    others = [
        {"game": "bilinear"},
        {"learning_rates": [0.1, 0.2]},
        {"order": "alternating"},
        {"n_updates": [1, 2]},
        {"cancel": "self"},
        {"cancel_weight": 0.5},
        {"game": "digits-gan"},
        {"game": "digits-gan", "spectral_norm": True},
        {"n_turns": 7},
        {"record_every": 3},
        {"seed": 1},
        {"threads": 2},
    ]
    assert len({run_id(config(**values)) for values in others} | {run_id(config())}) == 13


@pytest.mark.parametrize("name", GAMES)
def test_presets_plan_what_is_judged(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.claims.papers == ["games"]
    assert recipe.cost.startswith(f"{len(recipe.planned_runs())} runs, ")
    reduced = recipe.with_preset("reduced")
    assert len(reduced.planned_runs()) == len(recipe.planned_runs())
    assert recipe.seeds == (1 if name == "dirac-gan" else 10)


# ---- what is played


def played(n_turns: int, **values: Any) -> TwoNumbers:
    run = config(game="bilinear", **values)
    arena = TwoNumbers(run, "cpu")
    moves = Moves(arena.players, run)
    for _ in range(n_turns):
        assert moves.take_turn(arena.next_losses())
    return arena


@pytest.mark.parametrize("order", ["simultaneous", "alternating"])
@pytest.mark.parametrize("n_updates", [[1, 1], [2, 3]])
def test_turns_are_those_of_the_game(order: str, n_updates: list[int]) -> None:
    """The parameters that `Game.play` returns are those that the moves write."""
    arena = played(0)
    turn = Turn((0.2, 0.1), order, tuple(n_updates))
    with game(*arena.players, *arena.next_losses()) as duel:
        expected = torch.cat([*duel.play(turn, n_turns=5).values()])
    arena = played(5, order=order, n_updates=n_updates)
    found = torch.cat([player().detach() for player in arena.players])
    torch.testing.assert_close(found, expected, rtol=1e-14, atol=1e-15)


def test_the_bilinear_game_is_the_published_one() -> None:
    """x' = -e x + y, y' = -x - e y, whose turns stretch by the spectral radii of F."""
    arena = played(0)
    x, y = (float(player().detach()) for player in arena.players)
    assert math.hypot(x, y) == pytest.approx(1.0)
    slopes = [
        float(torch.autograd.grad(loss(*arena.players), player.value)[0])
        for loss, player in zip(arena.next_losses(), arena.players, strict=True)
    ]
    assert slopes == pytest.approx([0.09 * x - y, x + 0.09 * y])
    for order, radius in (("simultaneous", 1.0022), ("alternating", 0.9820)):
        arena = played(400, learning_rates=[0.2, 0.2], order=order)
        distance = math.hypot(*(float(player().detach()) for player in arena.players))
        assert distance ** (1 / 400) == pytest.approx(radius, abs=2e-4)


def test_the_dirac_gan_starts_at_one_one_whatever_the_seed() -> None:
    for seed in (0, 3):
        arena = arena_of(config(seed=seed))
        assert [float(player().detach()) for player in arena.players] == [1.0, 1.0]
    starts = {tuple(float(p().detach()) for p in played(0, seed=s).players) for s in range(5)}
    assert len(starts) == 5


def test_records_hold_the_flows(tmp_path: Path) -> None:
    """At half the rates and twice the turns the modified flow is four times nearer."""
    ends = []
    for halving in (2, 4):
        rates = [0.2 / halving, 0.05 / halving]
        folder = tmp_path / str(halving)
        play_run(config(learning_rates=rates, n_turns=8 * halving), RunFolder(folder))
        ends.append(lines_of(folder)[-1])
    orders = {
        name: math.log2(ends[0][f"{name}_gap"] / ends[1][f"{name}_gap"])
        for name in ("flow", "joint", "per_player")
    }
    assert orders["joint"] == pytest.approx(2.0, abs=0.1)
    assert orders["per_player"] == pytest.approx(1.0, abs=0.1)
    assert orders["flow"] == pytest.approx(1.0, abs=0.1)
    assert ends[0]["joint_distance"] == pytest.approx(ends[0]["distance"], abs=1e-3)
    first = lines_of(tmp_path / "2")[0]
    assert first["distance"] == first["flow_distance"] == pytest.approx(math.sqrt(2.0))
    assert "joint_gap" not in first


def test_a_cancelled_game_has_no_modified_flow(tmp_path: Path) -> None:
    play_run(config(cancel="interaction"), RunFolder(tmp_path))
    last = lines_of(tmp_path)[-1]
    assert {"distance", "flow_distance", "flow_gap"} <= set(last)
    assert "joint_distance" not in last


def parameters(arena: Any) -> torch.Tensor:
    both = [p.detach().reshape(-1) for player in arena.players for p in player.parameters()]
    return torch.cat(both)


def test_both_arms_of_a_seed_start_alike_and_see_the_same() -> None:
    runs = [config(game="digits-gan", cancel=cancel) for cancel in ("none", "interaction")]
    one, two = (arena_of(run) for run in runs)
    before = torch.random.get_rng_state()
    assert torch.equal(parameters(one), parameters(two))
    copies = copy.deepcopy(one.players)
    for run, arena in zip(runs, (one, two), strict=True):
        Moves(arena.players, run).take_turn(arena.next_losses())
    assert not torch.equal(parameters(one), parameters(two))
    values = [float(arena.next_losses()[0](*copies).detach()) for arena in (one, two)]
    assert values[0] == values[1]
    assert one.record(1) != two.record(1)
    assert torch.equal(torch.random.get_rng_state(), before)
    other = arena_of(config(game="digits-gan", seed=1))
    assert not torch.equal(parameters(other), parameters(arena_of(runs[0])))


def test_spectral_normalisation_is_in_the_discriminator() -> None:
    plain, normed = (
        DigitsGan(config(game="digits-gan", spectral_norm=is_on), "cpu") for is_on in (False, True)
    )
    norms = []
    for arena in (plain, normed):
        weights = [layer.weight for layer in arena.players[0] if isinstance(layer, nn.Linear)]
        norms.append([float(torch.linalg.matrix_norm(w.detach(), 2)) for w in weights])
    assert norms[1] == pytest.approx([1.0] * 3, abs=0.2)
    assert norms[0] != pytest.approx([1.0] * 3, abs=0.2)


def test_the_squared_frechet_distance_of_gaussians() -> None:
    images = digits()
    assert images.shape == (1797, 64)
    assert squared_frechet_distance(images, images) == pytest.approx(0.0, abs=1e-3)
    assert squared_frechet_distance(images, images + 0.5) == pytest.approx(16.0, rel=1e-3)
    wide = torch.randn(5000, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    wide = (wide - wide.mean(dim=0)) @ torch.linalg.inv(torch.linalg.cholesky(wide.T.cov())).T
    assert squared_frechet_distance(wide, 2.0 * wide) == pytest.approx(3.0)  # (2 - 1)^2 a direction
    assert squared_frechet_distance(images, images * math.nan) == math.inf


def test_the_ending_of_a_gan() -> None:
    assert ending([9.0, 3.0, 4.0, 4.0, 4.0])["diverged"] is False
    assert ending([9.0, 3.0, 7.0, 8.0, 9.0, 9.0, 9.0])["diverged"] is True
    assert ending([9.0, 3.0, math.inf])["diverged"] is True
    assert ending([9.0, 3.0, math.nan])["diverged"] is True
    assert ending([9.0, *[10.0] * 9])["diverged"] is True  # no better than at the start


# ---- one run


def test_a_run_has_the_folder_of_a_run(tmp_path: Path) -> None:
    run = config()
    folder = RunFolder(tmp_path / run_id(run))
    seen: list[tuple[int, int]] = []
    result = play_run(run, folder, on_progress=lambda *at: seen.append(at))
    assert (result["status"], result["steps"], result["converged"]) == ("done", 6, False)
    assert [line["step"] for line in lines_of(folder.path)] == [0, 2, 4, 6]
    assert seen == [(2, 6), (4, 6), (6, 6)]
    assert folder.config() == run
    assert folder.finished(run) == json.loads((folder.path / "result.json").read_text())
    final = result["final"]
    assert final is not None
    assert final.items() >= lines_of(folder.path)[-1].items()
    assert play_run(run, folder)["seconds"] == result["seconds"]  # not played again
    with pytest.raises(
        ValueError, match="MODEL: expected a run that trained a model, got the game"
    ):
        load_model(folder.path)
    with pytest.raises(ValueError, match="MODEL: expected a run that trained .* got the game"):
        compare_runs(folder.path, folder.path)


@pytest.mark.parametrize("game_", ["bilinear", "digits-gan"])
@pytest.mark.parametrize("cancel", ["none", "both"])
def test_a_killed_run_starts_anew_and_ends_alike(
    game_: str, cancel: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = config(game=game_, cancel=cancel, n_turns=5)
    play_run(run, RunFolder(tmp_path / "whole"))
    taken = Moves.take_turn
    turns: list[int] = []

    def die(self: Moves, losses: Any) -> bool:
        turns.append(1)
        if len(turns) == 4:
            raise KeyboardInterrupt
        return taken(self, losses)

    with monkeypatch.context() as patch:
        patch.setattr(play.Moves, "take_turn", die)
        with pytest.raises(KeyboardInterrupt):
            play_run(run, RunFolder(tmp_path / "killed"))
    assert len(lines_of(tmp_path / "killed")) == 2
    play_run(run, RunFolder(tmp_path / "killed"))
    assert outcome(tmp_path / "killed") == outcome(tmp_path / "whole")


@pytest.mark.parametrize("cancel", ["none", "interaction"])
def test_a_game_that_leaves_all_bounds_is_done_and_has_diverged(
    cancel: str, tmp_path: Path
) -> None:
    run = config(game="digits-gan", learning_rates=[1e6, 1e6], n_turns=200, cancel=cancel)
    result = play_run(run, RunFolder(tmp_path))
    assert result["status"] == "done"
    assert result["steps"] == lines_of(tmp_path)[-1]["step"] < 200
    assert result["final"] is not None
    assert result["final"]["diverged"] is True
    assert result["converged"] is False


@pytest.mark.parametrize("game_", ["bilinear", "dirac-gan", "digits-gan"])
@pytest.mark.parametrize("rates", [[1e300, 0.1], [0.1, 1e300]])
@pytest.mark.parametrize(
    "values",
    [
        {},
        {"n_updates": [2, 3]},
        {"cancel": "both", "order": "alternating"},
        {"cancel": "both", "n_updates": [2, 3]},
    ],
)
def test_rates_beyond_all_bounds_are_done_and_have_diverged(
    game_: str, rates: list[float], values: dict[str, Any], tmp_path: Path
) -> None:
    result = play_run(config(game=game_, learning_rates=rates, **values), RunFolder(tmp_path))
    assert (result["status"], result["steps"], result["converged"]) == ("done", 1, False)
    final = result["final"]
    assert final is not None
    assert final["diverged"] is True
    if game_ != "digits-gan":
        assert (final["flow_distance"], final["flow_gap"]) == (None, None)


def test_the_kind_of_a_configuration() -> None:
    assert kind_of(config()) is KINDS["game"]
    assert kind_of(load_recipe("demo").run_config()) is KINDS["supervised"]


# ---- sweeps


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """The smoke preset of each recipe of a game."""
    folders = {}
    for name in GAMES:
        folders[name] = tmp_path_factory.mktemp(name)
        recipe = load_recipe(name).with_preset("smoke")
        summary = run_sweep(recipe, folders[name], workers=1, progress=False)
        assert summary.n_failed == 0
        assert summary.n_done == summary.n_runs
    return folders


@pytest.mark.parametrize("name", GAMES)
def test_a_smoke_is_judged_and_reported(name: str, swept: Mapping[str, Path]) -> None:
    report = write_report(swept[name])
    assert report.results.problems == ()
    assert {v.claim for v in report.verdicts if v.n_runs}
    page = report.path.read_text()
    assert "No history was recorded" not in page
    assert "No figure" not in page
    claims = {v.claim for v in report.verdicts if v.n_runs}
    for claim in (c for c in report.papers[0].claims if c.name in claims):
        assert any(chart.name.startswith(claim.figures) for chart in report.charts)
    assert not {c for c in report.results.runs.columns if c.startswith(("source.", "training."))}


def test_a_sweep_goes_on_and_is_stored(swept: Mapping[str, Path], tmp_path: Path) -> None:
    recipe = load_recipe("bilinear-game").with_preset("smoke")
    copied = store(swept["bilinear-game"], tmp_path / "stored")
    assert SweepFolder(copied).recipe() == recipe
    again = run_sweep(recipe, copied, workers=1, progress=False)
    assert (again.n_done, again.n_skipped) == (0, 4)
    one, two = read_sweep(copied), read_sweep(swept["bilinear-game"])
    assert one.problems == two.problems == ()
    pd.testing.assert_frame_equal(one.runs, two.runs)
    with pytest.raises(ValueError, match="out: expected the recipe of .* another one: n_turns is"):
        run_sweep(recipe.with_values({"n_turns": 21}), copied, workers=1, progress=False)


def test_the_command_plays_one_game(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["train", "dirac-gan", "--preset", "smoke", "--out", str(tmp_path), "--quiet"]
    assert main(arguments) == 0
    assert "diverged after 16 turns" in capsys.readouterr().out
    assert main(["recipes", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)["recipes"]
    found = {recipe["name"]: (recipe["kind"], recipe["data"], recipe["model"]) for recipe in listed}
    assert found["digits-gan-drift"] == ("game", "digits", "digits-gan")
    assert found["bilinear-game"] == ("game", "none", "bilinear")
    assert found["demo"] == ("supervised", "digits", "mlp")


def test_cost_counts_turns() -> None:
    cost = estimate_cost(Recipe.of(DIRAC), workers=1)
    assert cost.n_runs == 1
    expected = 6 * cost.seconds_per_step + 5 * cost.seconds_per_record
    assert cost.seconds == pytest.approx(expected)


def test_a_bad_game_is_refused_before_anything_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    for setting in (
        "game=chess",
        "learning_rates=[0.1, -1]",
        "cancel=drift",
        "training.loss=squared",
    ):
        assert main(["sweep", "dirac-gan", "--set", setting, "--out", str(out)]) == 2
        assert "error: recipe: " in capsys.readouterr().err
    for recipe, paper in (("dirac-gan", "corridors"), ("demo", "games")):
        setting = f"claims.papers=[{paper}]"
        assert main(["sweep", recipe, "--set", setting, "--out", str(out)]) == 2
        assert "error: claims.papers: expected names among" in capsys.readouterr().err
    assert not out.exists()


# ---- verdicts


Made = Callable[[int], dict[str, object]]


PLAYED: dict[str, object] = {
    "learning_rates.0": 0.2,
    "learning_rates.1": 0.2,
    "n_updates.0": 1,
    "n_updates.1": 1,
    "order": "simultaneous",
    "cancel_weight": 1.0,
    "spectral_norm": False,
    "n_turns": 200,
    "record_every": 5,
}


def made_up(game_: str, settings: Sequence[tuple[str, dict[str, object], Made]]) -> SweepResults:
    """A sweep of ten seeds, by setting: its name, its keys, and what a seed of it ends with.

    The history of a run is that of its ends at the steps 0 and `steps`, or ``records``.
    """
    runs: list[dict[str, object]] = []
    rows: list[dict[str, object]] = []
    history: list[dict[str, object]] = []
    for position, (sweep, keys, make) in enumerate(settings):
        for seed in range(10):
            end = make(seed)
            run_id_ = f"r{len(runs)}"
            records = end.pop("records", [{"step": 0, "distance": 1.0}])
            fixed = {"status": "done", "converged": True, "steps": 200, "cancel": "none"}
            run = {"run_id": run_id_, "seed": seed, "game": game_, **fixed, **PLAYED, **keys, **end}
            runs.append(run)
            assert isinstance(records, list)
            history += [{"run_id": run_id_, **record} for record in records]
            label = ", ".join(f"{key} = {value}" for key, value in keys.items())
            row = {"sweep": sweep, "position": position, "setting": label, "run_id": run_id_}
            rows.append(row | {f"swept.{key}": value for key, value in keys.items()})
    return SweepResults(
        folder=Path("made-up"),
        recipe={"kind": "game", "name": "made-up", "title": "", "claims": {"papers": ["games"]}},
        runs=pd.DataFrame(runs),
        history=pd.DataFrame(history),
        settings=pd.DataFrame(rows),
        sampling=pd.DataFrame(columns=["run_id", "method", "full", "value", "low", "high"]),
        provenance={},
        problems=(),
    )


def numbers(simultaneous: float, alternating: float, cancelled: float) -> SweepResults:
    """Ends of the bilinear game, whose flow ends at 0.03."""

    def at(distance: float) -> Made:
        return lambda seed: {"distance": distance * (1 + 1e-9 * seed), "flow_distance": 0.03}

    return made_up(
        "bilinear",
        [
            ("turns", {"order": "simultaneous"}, at(simultaneous)),
            ("turns", {"order": "alternating"}, at(alternating)),
            ("turns", {"cancel": "interaction"}, at(cancelled)),
        ],
    )


def by_x(results: SweepResults, claim: str) -> dict[str, Verdict]:
    return {verdict.x: verdict for verdict in judge(results) if verdict.claim == claim}


def test_verdicts_on_the_order_of_play() -> None:
    found = by_x(numbers(1.5, 0.03, 0.03), "game-order")
    assert {x: v.verdict for x, v in found.items()} == {
        "simultaneous": "holds",
        "alternating": "holds",
    }
    assert found["simultaneous"].effect == pytest.approx(1.5)
    found = by_x(numbers(0.9, 1.2, 0.03), "game-order")
    assert {v.verdict for v in found.values()} == {"does not hold"}


@pytest.mark.parametrize(
    ("rate", "expected"),
    [(1.0, "holds"), (1.03, "holds"), (1.1, "does not hold"), (0.5, "does not hold")],
)
def test_cancelled_turns_are_judged_by_their_rate(rate: float, expected: str) -> None:
    (found,) = by_x(numbers(1.5, 0.03, 0.03**rate), "game-cancelled").values()
    assert found.verdict == expected
    assert found.effect == pytest.approx(rate)


@pytest.mark.parametrize("changed", [{"learning_rates.0": 0.1}, {"n_updates.0": 2}])
def test_a_bilinear_game_at_another_rate_is_not_judged(changed: dict[str, float]) -> None:
    results = numbers(1.5, 0.03, 0.03)
    for name, value in changed.items():
        results.runs[name] = value
    assert {v.verdict for v in judge(results)} == {"undecided"}
    assert {v.n_runs for v in judge(results)} == {0}


def test_a_half_cancelled_bilinear_game_is_not_judged() -> None:
    results = numbers(1.5, 0.03, 0.03)
    results.runs["cancel_weight"] = 0.5
    assert {v.n_runs for v in by_x(results, "game-cancelled").values()} == {0}
    assert {v.verdict for v in by_x(results, "game-order").values()} == {"holds"}


def test_a_starting_point_counts_once_and_has_no_interval() -> None:
    """Two seeds with two lengths each are two values, below three."""
    results = numbers(1.5, 0.03, 0.03)
    two = results.runs[results.runs["seed"] < 2]
    longer = two.assign(run_id=two["run_id"] + "-longer", n_turns=400)
    settings = results.settings[results.settings["run_id"].isin(two["run_id"])]
    starts = pd.DataFrame({"run_id": longer["run_id"], "step": 0, "distance": 1.0})
    results = replace(
        results,
        runs=pd.concat([two, longer]),
        settings=pd.concat([settings, settings.assign(run_id=settings["run_id"] + "-longer")]),
        history=pd.concat([results.history, starts]),
    )
    for found in judge(results):
        assert (found.verdict, found.n_runs) == ("undecided", 4)
        assert "Below 3 starting points" in found.note
        assert found.remark.endswith("over 2 starting points")
        assert math.isnan(found.interval[0])
        assert math.isnan(found.p)


def test_starting_points_on_both_sides_decide_nothing() -> None:
    results = numbers(1.5, 0.03, 0.03)
    first = results.runs["seed"] == 0
    results.runs.loc[first, "distance"] = [0.9, 1.1, 0.5]
    assert {v.verdict for v in judge(results)} == {"undecided"}


def halved(joint: float, per_player: float, n_rates: int = 4) -> SweepResults:
    """Runs of the Dirac GAN at halved rates, whose gaps have these orders."""

    def at(rate: float) -> Made:
        def make(seed: int) -> dict[str, object]:
            del seed
            records = [
                {
                    "step": step,
                    "distance": 1.4,
                    "flow_gap": rate,
                    "joint_gap": 3.0 * rate**joint * (1 if step * rate == 4.0 else 7),
                    "per_player_gap": 2.0 * rate**per_player,
                }
                for step in (20, 40, 80, 160)
            ]
            ends = {"joint_distance": 1.5, "per_player_distance": 1.6, "flow_distance": 1.41}
            return {"steps": 160, "distance": 1.5, **ends, "records": records}

        return make

    rates = [0.2 / 2**k for k in range(n_rates)]
    keys = [{"learning_rates.0": rate, "learning_rates.1": rate / 4} for rate in rates]
    return made_up(
        "dirac-gan",
        [("unequal", key, at(rate)) for key, rate in zip(keys, rates, strict=True)],
    )


@pytest.mark.parametrize(("order", "expected"), [(2.0, "holds"), (1.1, "does not hold")])
def test_verdicts_on_the_order_of_a_modified_flow(order: float, expected: str) -> None:
    results = halved(order, 3.1 - order)
    (joint,) = by_x(results, "game-modified-flow").values()
    assert joint.verdict == expected
    assert joint.effect == pytest.approx(order)
    assert joint.remark == "flow of the game 1.00"
    assert "1.5 played, 1.5 modified flow, 1.41 flow of the game" in joint.note
    (own,) = by_x(results, "game-per-player-flow").values()
    assert own.verdict != expected
    assert "rates 4 to 1" in own.statement


def test_two_rates_have_no_order() -> None:
    assert {v.verdict for v in judge(halved(2.0, 1.0, n_rates=2))} == {"undecided"}
    assert judge(halved(2.0, 1.0, n_rates=1)) == ()


def diverged(plain: Sequence[int], cancelled: Sequence[int]) -> list[tuple[str, Any, Made]]:
    """The seeds that diverge in each arm."""

    def by(seeds: Sequence[int]) -> Made:
        return lambda seed: {"diverged": seed in seeds, "late_frechet_distance": 1.0}

    return [
        ("gan", {"cancel": "none"}, by(plain)),
        ("gan", {"cancel": "interaction"}, by(cancelled)),
    ]


@pytest.mark.parametrize(
    ("plain", "cancelled", "expected"),
    [
        (range(5), (), "holds"),
        (range(4), (), "undecided"),
        ((), range(6), "does not hold"),
        (range(10), range(10), "undecided"),
        ((), (), "undecided"),
        (range(9), range(3), "holds"),
        (range(9), [*range(3), 9], "undecided"),
    ],
)
def test_verdicts_on_divergence(
    plain: Sequence[int], cancelled: Sequence[int], expected: str
) -> None:
    (found,) = judge(made_up("digits-gan", diverged(plain, cancelled)))
    assert found.verdict == expected
    assert found.effect == pytest.approx((len(plain) - len(cancelled)) / 10)
    assert found.remark == f"{len(plain)} of 10 plain, {len(cancelled)} cancelled"
    assert found.n_runs == 20


def test_divergence_in_two_sweeps_is_corrected() -> None:
    one = diverged(range(5), ())
    two = [("again", keys, make) for _, keys, make in diverged((), ())]
    found = judge(made_up("digits-gan", [*one, *two]))
    assert [v.verdict for v in found] == ["undecided", "undecided"]
    assert found[0].p_holm == pytest.approx(2 / 32)
    assert "5 plain, 0 cancelled; one-sided p 0.031, 0.062 with Holm's" in found[0].note


def at_rates(rates: Sequence[float], seeds: Sequence[int]) -> list[tuple[str, Any, Made]]:
    """The same seeds diverge in the plain arm alone at each of several rates of one sweep."""
    return [
        (sweep, {**keys, "learning_rates.0": rate}, make)
        for rate in rates
        for sweep, keys, make in diverged(seeds, ())
    ]


def test_rates_of_one_sweep_are_judged_apart() -> None:
    """Two seeds that diverge at three rates are not six pairs."""
    found = judge(made_up("digits-gan", at_rates((0.1, 0.2, 0.4), range(2))))
    assert [v.verdict for v in found] == ["undecided"] * 3
    assert [v.n_runs for v in found] == [20] * 3
    assert [v.p for v in found] == [0.25] * 3
    assert [v.x for v in found] == [f"learning_rates.0 = {rate}" for rate in (0.1, 0.2, 0.4)]
    assert len({v.statement for v in found}) == 3
    holds = judge(made_up("digits-gan", at_rates((0.1, 0.2, 0.4), range(7))))
    assert [v.verdict for v in holds] == ["holds"] * 3
    assert [v.p_holm for v in holds] == pytest.approx([3 / 128] * 3)


def test_only_the_whole_drift_cancelled_is_judged() -> None:
    """The weight of an arm without cancelled drift plays no part, and no seed counts twice."""
    arms = [
        (sweep, {**keys, "cancel_weight": weight}, make)
        for weight in (0.5, 1.0)
        for sweep, keys, make in diverged(range(5), () if weight == 1.0 else range(10))
    ]
    (found,) = judge(made_up("digits-gan", arms))
    assert (found.verdict, found.n_runs) == ("holds", 20)
    assert found.remark == "5 of 10 plain, 0 cancelled"
    (half,) = judge(made_up("digits-gan", arms[:2]))
    assert (half.verdict, half.n_runs) == ("undecided", 0)
    assert half.note == "No seed has a run in both arms of one setting."


def test_alternating_turns_are_not_those_of_the_claim() -> None:
    arms = [(sweep, {**keys, "order": "alternating"}, m) for sweep, keys, m in diverged([0], [])]
    (found,) = judge(made_up("digits-gan", arms))
    assert found.n_runs == 0


def test_seeds_are_paired() -> None:
    results = made_up("digits-gan", diverged(range(5), ()))
    left = results.runs[(results.runs["cancel"] == "none") | (results.runs["seed"] > 3)]
    settings = results.settings[results.settings["run_id"].isin(left["run_id"])]
    (found,) = judge(replace(results, runs=left, settings=settings))
    assert (found.n_runs, found.remark) == (12, "1 of 6 plain, 0 cancelled")


def test_mcnemar_agrees_with_counting() -> None:
    for n, k in ((5, 5), (6, 5), (10, 7), (3, 0)):
        tail = sum(math.comb(n, i) for i in range(k, n + 1)) / 2**n
        assert mcnemar_p(k, n - k) == pytest.approx(tail)
    assert mcnemar_p(0, 0) == 1.0


@pytest.mark.parametrize(("p", "q"), [(0.4, 0.1), (0.5, 0.5), (0.9, 0.0)])
def test_the_interval_of_a_paired_difference_covers(p: float, q: float) -> None:
    """Ten pairs, as of the GAN's seeds: 4,000 draws cover at least 95 % but for their own error."""
    rng = np.random.default_rng(0)
    first, second = rng.random((2, 4000, 10))
    only_first = ((first < p) & (second >= q)).sum(axis=1)
    only_second = ((first >= p) & (second < q)).sum(axis=1)
    inside = []
    for a, b in zip(only_first.tolist(), only_second.tolist(), strict=True):
        low, high = paired_share_interval(a, b, 10)
        inside.append(low <= p - q <= high)
    assert 0.94 <= np.mean(inside) <= 1.0
    assert paired_share_interval(0, 0, 10)[1] > 0.2  # no pair differs: some width


def test_distances_are_named_as_squared_and_the_caption_has_the_whole_rule() -> None:
    for name in ("frechet_distance", "lowest_frechet_distance", "late_frechet_distance"):
        assert "squared" in axis_label(name)
    (end,) = (figure for figure in papers()["games"].figures if figure.name == "gan-end")
    assert "above that of its start or above twice its lowest" in end.caption


def test_a_sweep_without_games_has_no_verdict_of_this_paper() -> None:
    results = numbers(1.5, 0.03, 0.03)
    assert judge(replace(results, runs=results.runs.drop(columns="game"))) == ()
