"""``python benchmarks/run.py [--only ROW] [--out FILE]``: run the comparisons and store them."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from harness import RESULTS, Result, machine, run, show, store
from rows import ROWS


def main() -> None:
    """Run the chosen rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="run the rows whose names begin with this")
    parser.add_argument("--out", type=Path, help="file to merge the results into")
    arguments = parser.parse_args()
    rows = [row for row in ROWS if row.name.startswith(arguments.only)]
    if not rows:
        sys.exit(
            f"--only: expected the beginning of one of {', '.join(r.name for r in ROWS)}, got "
            f"{arguments.only!r}"
        )
    device = str(machine()["accelerator"] or machine()["processor"])
    name = re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-")
    results: list[Result] = []
    for row in rows:
        print(f"{row.name} ...", file=sys.stderr, flush=True)
        try:
            results.append(run(row))
        except (ImportError, FileNotFoundError) as error:  # packages, trained networks or data
            print(f"{row.name}: skipped, {error}", file=sys.stderr, flush=True)
            continue
        store(results, arguments.out or RESULTS / f"{name}.json")
    show(results)


if __name__ == "__main__":
    main()
