"""Every page says of a stored sweep what its files say.

`REWRITE_PAGES=1 pytest tests/test_stored_blocks.py` makes the blocks and their figures anew.
"""

import os
from pathlib import Path

import pytest

from stored_blocks import BLOCK, ROOT, block, report_of, rewritten

PAGES = sorted((ROOT / "docs").glob("*.md"))
BLOCKS = [
    pytest.param(page, found, id=f"{page.stem}: {found[1]}")
    for page in PAGES
    for found in BLOCK.finditer(page.read_text(encoding="utf-8"))
]


@pytest.mark.parametrize(("page", "found"), BLOCKS)
def test_a_page_says_what_is_stored(page: Path, found) -> None:
    if os.environ.get("REWRITE_PAGES"):
        page.write_text(rewritten(page), encoding="utf-8")
        return
    names = found[2].split()
    assert found[3] == block(found[1], report_of(found[1]), names)
    assert all((ROOT / f"docs/figures/stored/{found[1]}-{name}.png").exists() for name in names)
