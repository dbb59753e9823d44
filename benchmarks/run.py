"""``python benchmarks/run.py [--only ROW] [--out FILE]``: run the comparisons, print the table, store it."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from harness import RESULTS, Result, machine, run, show, store
from rows import ROWS


def main() -> None:
    """Run the rows asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="rows whose names begin so")
    parser.add_argument("--out", type=Path, help="file to merge the results into")
    arguments = parser.parse_args()
    rows = [row for row in ROWS if row.name.startswith(arguments.only)]
    if not rows:
        sys.exit(f"--only: expected the beginning of one of {', '.join(r.name for r in ROWS)}, got {arguments.only!r}")
    results: list[Result] = []
    for row in rows:
        print(f"{row.name} ...", file=sys.stderr, flush=True)
        try:
            results.append(run(row))
        except ImportError as error:  # a row against a published package that is not installed
            print(f"{row.name}: skipped, {error}; do pip install {error.name}", file=sys.stderr, flush=True)
    show(results)
    name = re.sub(r"[^a-z0-9]+", "-", (machine()["accelerator"] or machine()["processor"]).lower()).strip("-")
    store(results, arguments.out or RESULTS / f"{name}.json")


if __name__ == "__main__":
    main()
