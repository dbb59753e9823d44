"""docs/morse.md says of stored results what their files say.

`REWRITE_PAGES=1 pytest tests/test_morse_page.py` makes its blocks anew.
"""

import os

import pytest

from geocollapse.papers.morse.cells import Cells
from geocollapse.papers.morse.claims import LABELLED, SETS
from morse_page import BLOCK, BLOCKS, CELLS, PAGE, block, is_whole, rewritten


@pytest.mark.parametrize("name", BLOCKS)
def test_the_page_says_what_is_stored(name):
    text = PAGE.read_text(encoding="utf-8")
    if os.environ.get("REWRITE_PAGES"):
        text = rewritten(text)
        PAGE.write_text(text, encoding="utf-8")
    found = {match[1]: match[2] for match in BLOCK.finditer(text)}
    assert found[name] == block(name)


def test_the_nearest_neighbours_beat_morse_networks_on_every_set_as_the_page_says():
    cells = Cells.read(CELLS)
    for network in (one for one in cells.networks if is_whole(cells, one)):
        ours, theirs = (cells.auroc(network, name, SETS) for name in (LABELLED, "kNN"))
        assert (ours < theirs).all(), network
