"""The report of a ranking written into a folder: page, data, table and figures from one record."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, cast

from geocollapse.charts.paper import save
from geocollapse.estimate import strict_json
from geocollapse.experiments.results.text import json_object, to_json
from geocollapse.reports.ranking_charts import ranking_charts
from geocollapse.reports.ranking_page import render_ranking
from geocollapse.reports.ranking_reading import RankingPage, ScoreLabel
from geocollapse.reports.ranking_tables import columns
from geocollapse.runtime.files import write_whole

if TYPE_CHECKING:
    from geocollapse.ranking.json_form import RankingDict

RANKING = "ranking.json"
_VERSION = 1  # of ranking.json, the newest that this code reads


def write_ranking(
    folder: str | Path, ranking: RankingDict, *, scores: Mapping[str, ScoreLabel]
) -> Path:
    """Write report.html, ranking.json, ranking.csv and figures/*.png and *.pdf into a folder.

    Each file is written whole. Cost: about half a second a figure; there are five at most.

    Args:
        folder: made if it is not there.
        ranking: from ``Ranking.to_dict`` or ``read_ranking``.
        scores: names of the scores; one that is missing is called by its key.

    Returns:
        The path of the page, one file with all it needs, to be opened without a network.
    """
    folder = Path(folder)
    plain = cast("RankingDict", strict_json(ranking))
    page = RankingPage(plain, scores)
    charts = ranking_charts(page)
    for chart in charts:
        save(chart, folder / "figures")
    path = folder / "report.html"
    write_whole(
        {
            folder / RANKING: to_json(plain, indent=1),
            folder / "ranking.csv": _csv(page),
            path: render_ranking(page, charts).encode("utf-8"),
        }
    )
    return path


def read_ranking(folder: str | Path) -> RankingDict:
    """Read the ranking of a report, from which ``write_ranking`` makes the same files again.

    Raises:
        FileNotFoundError: there is no ranking.json in ``folder``.
        ValueError: it holds no ranking, or one of a newer version.
    """
    path = Path(folder) / RANKING
    if not path.is_file():
        raise FileNotFoundError(
            f"folder: expected a folder with {RANKING}, got {str(folder)!r}; do geocollapse rank "
            f"--report {folder}"
        )
    content = json_object(path.read_bytes())
    if content is None or "models" not in content:
        raise ValueError(f"{path}: expected a ranking, got none; do geocollapse rank again")
    version = content.get("schema_version")
    if not isinstance(version, int) or version > _VERSION:
        raise ValueError(
            f"{path}: expected schema_version {_VERSION} or older, got {version!r}; do update "
            f"geocollapse"
        )
    return cast("RankingDict", content)


def _csv(page: RankingPage) -> bytes:
    """The models as a table with dotted names."""
    import pandas as pd

    return pd.DataFrame(columns(page)).to_csv(index=False).encode("utf-8")
