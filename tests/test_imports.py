"""The house: imports go one way, and nothing heavy is imported before it is needed."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "geocollapse"

# The rooms in the order of the data: a module may import from its own line and from lines above it.
ORDER = (
    "_version",
    "influence",
    "estimate numerics multiple_tests",
    "inputs arrays",
    "measures",
    "runtime",
    "modules",
    "data",
    "models",
    "dynamics",
    "optimizers",
    "morse",
    "batches",
    "collapse",
    "features",
    "bounds",
    "transfer",
    "jacobian",
    "complexity",
    "regularizers",
    "store",
    "measurement",
    "ranking",
    "integrations",
    "experiments.recipe",
    "experiments.results",
    "experiments.pace",
    "experiments.supervised",
    "experiments.games",
    "experiments.kinds",
    "experiments.engines",
    "experiments.sweep",
    "experiments.cost",
    "papers",
    "charts",
    "reports",
    "cli",
    "__main__",
)
PLACE = {room: place for place, rooms in enumerate(ORDER) for room in rooms.split()}
HEAVY = (
    "scipy",
    "sklearn",
    "pandas",
    "matplotlib",
    "plotly",
    "torchmetrics",
    "torchvision",
    "timm",
    "transformers",
    "PIL",
    "pyarrow",
    "pydantic",
    "yaml",
    "rich",
)
CORE = ORDER[: ORDER.index("ranking") + 1]
SHELLS = ("integrations",)  # each imports its framework


def module_name(path):
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def room_of(name):
    """The room that a module belongs to: `collapse.cdnv` to `collapse`, `experiments.claims.judge`
    to its claims.
    """
    parts = name.split(".")
    return ".".join(parts[:2] if parts[0] == "experiments" else parts[:1])


def imported(path, *, at_top):
    """Modules that a file imports: at its top level alone, or anywhere but for type checking."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in tree.body if at_top else walk_run_time(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (
                [node.module]
                if node.module != "geocollapse"
                else [f"geocollapse.{a.name}" for a in node.names]
            )


def walk_run_time(node):
    """All nodes but those under `if TYPE_CHECKING`."""
    yield node
    for child in ast.iter_child_nodes(node):
        if not (isinstance(child, ast.If) and getattr(child.test, "id", "") == "TYPE_CHECKING"):
            yield from walk_run_time(child)


MODULES = [
    path for path in sorted(PACKAGE.rglob("*.py")) if module_name(path) not in ("", "experiments")
]


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_imports_go_one_way(path):
    here = room_of(module_name(path))
    assert here in PLACE, f"{here} has no place in the order: give it one"
    for name in imported(path, at_top=False):
        room = room_of(name.removeprefix("geocollapse."))
        if name.startswith("geocollapse.") and room in PLACE:
            assert PLACE[room] <= PLACE[here], f"{here} imports {room}, which comes after it"


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_the_measuring_core_needs_only_torch_and_numpy(path):
    room = room_of(module_name(path))
    if any(room in rooms.split() for rooms in CORE) and room not in SHELLS:
        assert not {name.split(".")[0] for name in imported(path, at_top=True)} & set(HEAVY)


def test_contributors_are_shown_this_order():
    text = (PACKAGE.parents[1] / "CONTRIBUTING.md").read_text()
    listed = [
        name
        for line in re.findall(r"^    ((?:\w+, )?\w+)  ?\S* ", text, re.MULTILINE)
        for name in line.split(", ")
    ]
    rooms = dict.fromkeys(
        room.split(".")[0] for rooms in ORDER for room in rooms.split() if room[0] != "_"
    )
    assert listed == list(rooms)


def test_no_relative_imports():
    for path in MODULES:
        relative = [
            n
            for n in ast.walk(ast.parse(path.read_text()))
            if isinstance(n, ast.ImportFrom) and n.level
        ]
        assert not relative, module_name(path)


def run(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip().splitlines()[-1]


def test_help_imports_neither_torch_nor_anything_heavy():
    code = (
        "import sys; from geocollapse.cli import main; main(['--help']); "
        "print(sorted({n.split('.')[0] for n in sys.modules}))"
    )
    loaded = set(ast.literal_eval(run(code)))
    assert "typer" in loaded
    assert not loaded & {"torch", "numpy", *HEAVY}


def test_help_of_a_command_imports_no_torch():
    code = (
        "import sys; from geocollapse.cli import main; main(['measure', '--help']); "
        "print('torch' in sys.modules)"
    )
    assert run(code) == "False"


def test_help_answers_in_under_three_tenths_of_a_second():
    """Processor time, the best of five: the wall clock of a loaded machine tells of its load."""

    def seconds():
        before = os.times()
        subprocess.run(
            [sys.executable, "-m", "geocollapse", "--help"], capture_output=True, check=True
        )
        after = os.times()
        return (
            after.children_user
            + after.children_system
            - before.children_user
            - before.children_system
        )

    assert min(seconds() for _ in range(5)) < 0.3


def test_import_costs_little_more_than_torch():
    clock = "import time, torch; start = time.process_time(); "
    code = clock + "import geocollapse; geocollapse.measure; print(time.process_time() - start)"
    assert min(float(run(code)) for _ in range(2)) < 0.3


def test_public_names_resolve_and_unknown_ones_do_not():
    import geocollapse

    for name in geocollapse.__all__:
        assert getattr(geocollapse, name) is not None
    with pytest.raises(AttributeError, match="nope"):
        _ = geocollapse.nope
