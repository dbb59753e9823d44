"""docs/morse.md says of stored results what their files say.

`REWRITE_PAGES=1 pytest tests/test_morse_page.py` makes its blocks anew.
"""

import os

import pytest

from morse_page import BLOCK, BLOCKS, PAGE, block, rewritten


@pytest.mark.parametrize("name", BLOCKS)
def test_the_page_says_what_is_stored(name):
    text = PAGE.read_text(encoding="utf-8")
    if os.environ.get("REWRITE_PAGES"):
        text = rewritten(text)
        PAGE.write_text(text, encoding="utf-8")
    found = {match[1]: match[2] for match in BLOCK.finditer(text)}
    assert found[name] == block(name)
