"""docs/morse.md says of stored results what their files say.

`REWRITE_PAGES=1 pytest tests/test_morse_page.py` makes its blocks anew.
"""

import os

import pytest

from geocollapse.papers.morse.cells import Cells
from geocollapse.papers.morse.claims import CHOSEN_ON, LABELLED, NEAR, SETS
from morse_page import BLOCK, BLOCKS, CELLS, PAGE, block, is_whole, rewritten


@pytest.mark.parametrize("name", BLOCKS)
def test_the_page_says_what_is_stored(name):
    text = PAGE.read_text(encoding="utf-8")
    if os.environ.get("REWRITE_PAGES"):
        text = rewritten(text)
        PAGE.write_text(text, encoding="utf-8")
    found = {match[1]: match[2] for match in BLOCK.finditer(text)}
    assert found[name] == block(name)


def test_the_table_bears_out_what_the_page_says_in_words():
    cells = Cells.read(CELLS)
    for network in (one for one in cells.networks if is_whole(cells, one)):
        ours, theirs = (cells.auroc(network, name, SETS) for name in (LABELLED, "kNN"))
        assert (ours < theirs).all(), network
        if network != CHOSEN_ON:
            vim, msp = (cells.auroc(network, name, [NEAR])[0] for name in ("ViM", "MSP"))
            assert ours[0] - vim == pytest.approx(0.01, abs=0.005), network
            assert ours[0] == pytest.approx(msp, abs=0.0075), network
