"""The record beside every result names the code and the machine."""

import subprocess
from pathlib import Path

import pytest

import geocollapse
from geocollapse.runtime.provenance import provenance

ROOT = Path(__file__).parents[1]


def test_a_source_checkout_is_named_by_its_commit():
    if Path(geocollapse.__file__).parents[2] != ROOT or not (ROOT / ".git").exists():
        pytest.skip("the package is not imported from a checkout")
    head = subprocess.run(
        ["git", "-C", ROOT, "rev-parse", "--short=12", "HEAD"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    assert provenance(seed=0)["revision"].removesuffix("+") == head


def test_the_machine_is_named_with_its_processor():
    machine = provenance(seed=0)["machine"]
    if Path("/proc/cpuinfo").exists():
        assert machine.endswith("cores")
    assert machine.split()[0] in ("Linux", "Darwin", "Windows")
