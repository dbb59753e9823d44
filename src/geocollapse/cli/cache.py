"""`geocollapse cache`: the features and results that rankings keep on disk."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Literal

from typer import Argument

from geocollapse.cli.answer import SCHEMA_VERSION, Answer, table

if TYPE_CHECKING:
    from geocollapse.cli.catalogue_types import CacheDict, CacheEntryDict
    from geocollapse.store.cache import CacheEntry


def cache(
    action: Annotated[
        Literal["list", "clear"], Argument(metavar="list|clear", help="List the files, or remove.")
    ] = "list",
) -> Answer:
    """List or clear the features and results that `rank` keeps on disk.

    They lie in $GEOCOLLAPSE_CACHE, else in the user's cache.
    """
    from geocollapse.store.cache import FeatureCache

    features = FeatureCache()
    entries = features.entries()
    rows = [_described(entry) for entry in entries]
    n_bytes = sum(entry.n_bytes for entry in entries)
    n_removed = features.clear() if action == "clear" else 0
    found: CacheDict = {
        "schema_version": SCHEMA_VERSION,
        "folder": str(features.folder),
        "n_bytes": n_bytes if action == "list" else 0,
        "n_removed": n_removed,
        "files": rows if action == "list" else [],
    }
    if action == "clear":
        text = f"{n_removed} files of {n_bytes / 1e6:.1f} MB removed from {features.folder}"
    else:
        text = f"{len(rows)} files of {n_bytes / 1e6:.1f} MB in {features.folder}"
        columns = ("model", "data", "split", "layer", "holds", "MB", "last used, UTC")
        cells = [
            (
                *(r["model"], r["data"], r["split"], r["layer"], r["holds"]),
                *(r["n_bytes"] / 1e6, r["last_used"][:16].replace("T", " ")),
            )
            for r in rows
        ]
        text = f"{text}\n\n{table(columns, cells)}" if cells else text
    return Answer(found, text, rows=found["files"])


def _described(entry: CacheEntry) -> CacheEntryDict:
    """A file of the cache, as far as it tells what it holds."""
    from geocollapse.store.features_file import origin_of

    origin = origin_of(entry.path)
    return {
        "file": entry.path.name,
        "holds": origin.get("holds"),
        "model": origin.get("model"),
        "data": origin.get("data"),
        "split": origin.get("split"),
        "layer": origin.get("layer"),
        "n_bytes": entry.n_bytes,
        "last_used": datetime.fromtimestamp(entry.last_used, UTC).isoformat(timespec="seconds"),
    }
