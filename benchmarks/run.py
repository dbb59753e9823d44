"""``python benchmarks/run.py [--only ROW] [--out FILE]``: run the comparisons, print the table,
store it.
"""

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
        sys.exit(
            f"--only: expected the beginning of one of {', '.join(r.name for r in ROWS)}, got "
            f"{arguments.only!r}"
        )
    name = re.sub(
        r"[^a-z0-9]+", "-", (machine()["accelerator"] or machine()["processor"]).lower()
    ).strip("-")
    results: list[Result] = []
    for row in rows:
        print(f"{row.name} ...", file=sys.stderr, flush=True)
        try:
            results.append(run(row))
        except (
            ImportError,
            FileNotFoundError,
        ) as error:  # a published package, trained networks or data are missing
            print(f"{row.name}: skipped, {error}", file=sys.stderr, flush=True)
            continue
        store(results, arguments.out or RESULTS / f"{name}.json")
    show(results)


if __name__ == "__main__":
    main()
