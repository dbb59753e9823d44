"""What runs cost, and what only looks like a cost: a pause of the process."""

import json

import pandas as pd
import pytest

from geocollapse.experiments.results.pauses import Pause, pauses
from geocollapse.experiments.results.tables import read_sweep
from geocollapse.reports.environment import template
from geocollapse.reports.times import median_history_share, pause_note
from synthetic_sweep import run_folders, write_sweep


def history(*, record: float = 3.0, steps: float = 10.0) -> pd.DataFrame:
    """Four records of 3 s with 100 steps of 10 s between them; the third of each is given."""
    measuring = [3.0, 6.0, 6.0 + record, 9.0 + record]
    training = [0.0, 10.0, 10.0 + steps, 20.0 + steps]
    return pd.DataFrame(
        {
            "run_id": "a",
            "step": [0, 100, 200, 300],
            "seconds": [one + two for one, two in zip(measuring, training)],
            "seconds_measuring": measuring,
        }
    )


def test_a_run_without_a_pause_has_none():
    assert pauses(history()) == []
    assert pauses(history(record=59.0)) == []  # just below 20 times the median
    assert pauses(pd.DataFrame({"run_id": ["a"], "step": [0]})) == []


def test_a_record_or_steps_above_twenty_times_the_median_are_a_pause():
    assert pauses(history(record=61.0)) == [Pause("a", 200, "record", 61.0)]
    assert pauses(history(steps=201.0)) == [Pause("a", 200, "steps", 201.0)]


def test_steps_are_compared_by_their_pace():
    longer = history()
    longer["step"] *= [1, 1, 1, 30]
    longer.loc[3, "seconds"] += 290.0
    assert pauses(longer) == []


@pytest.fixture(name="paused")
def fixture_paused(tmp_path):
    """Three runs that measure for 10, 20 and 900 % of their training; the last was suspended."""
    folder = write_sweep(tmp_path, n_settings=3, n_seeds=1)
    for run, share in zip(run_folders(folder), (0.1, 0.2, 9.0)):
        result = json.loads((run / "result.json").read_text())
        result |= {"seconds_training": 100.0, "seconds_history": 100.0 * share}
        (run / "result.json").write_text(json.dumps(result))
    last = run_folders(folder)[-1] / "history.jsonl"
    lines = [json.loads(line) for line in last.read_text().splitlines()]
    for line in lines[2:]:
        line["seconds"] += 900.0
        line["seconds_measuring"] += 900.0
    last.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return read_sweep(folder)


def test_the_median_share_is_not_moved_by_a_pause_and_the_pause_is_named(paused):
    assert median_history_share(paused) == pytest.approx(0.2)
    run_id = paused.history["run_id"].iloc[-1]
    assert pause_note(paused) == (
        f"A pause and no cost, though the sums contain it: the record at step 50 of run {run_id} "
        "took 900 s, more than 20 times as long as usual in that run."
    )


def test_without_recorded_parts_there_is_no_share_and_no_note(tmp_path):
    results = read_sweep(write_sweep(tmp_path, n_settings=2, n_seeds=1))
    assert median_history_share(results) is None
    assert pause_note(results) == ""


def test_pages_know_both_filters():
    filters = template("reproduction.html.jinja").environment.filters
    assert {"median_history_share", "pause_note"} <= set(filters)
