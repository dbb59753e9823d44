"""Fixtures: the real data sets and checkpoints, where they are; a hypothesis profile for busy
machines.
"""

import http.server
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import settings

ROOT = Path(__file__).parents[1]
SHARED = Path(os.environ.get("GEOCOLLAPSE_SHARED", ROOT.parent / "shared"))

# A shell's `nohup` or `&` makes its children ignore these, which the tests of signals send.
for number, handler in (
    (signal.SIGINT, signal.default_int_handler),
    (signal.SIGHUP, signal.SIG_DFL),
):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, handler)

settings.register_profile("geocollapse", deadline=None, derandomize=True)
settings.load_profile("geocollapse")


@pytest.fixture(scope="session")
def data_root():
    """A folder with the official data sets in torchvision's layout."""
    if os.environ.get("GEOCOLLAPSE_DATA"):
        return Path(os.environ["GEOCOLLAPSE_DATA"])
    unpack = SHARED / "data" / "unpack.py"
    if not unpack.exists():
        pytest.skip("real data: set GEOCOLLAPSE_DATA to a folder in torchvision's layout")
    destination = ROOT / ".data"
    subprocess.run(
        [sys.executable, str(unpack), str(destination)], check=True, stdout=subprocess.DEVNULL
    )
    return destination


@pytest.fixture(scope="session")
def checkpoints():
    """A folder with the public CIFAR-10 ResNet checkpoints."""
    folder = SHARED / "data" / "checkpoints"
    if not folder.exists():
        pytest.skip("checkpoints: set GEOCOLLAPSE_SHARED to the folder that holds data/checkpoints")
    return folder


@pytest.fixture
def server(tmp_path):
    """A local server: the folder that it serves, and its address."""
    served = tmp_path / "served"
    served.mkdir()
    handler = type(
        "Handler", (http.server.SimpleHTTPRequestHandler,), {"log_message": lambda *_: None}
    )
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), lambda *a: handler(*a, directory=str(served))
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield served, f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()


def pytest_terminal_summary(terminalreporter):
    """The seconds of each smoke, which nothing asserts: machines differ."""
    passed = terminalreporter.getreports("passed")
    for report in passed:
        if "test_smokes.py" in report.nodeid and report.when == "call":
            name = report.nodeid.partition("::")[2]
            terminalreporter.write_line(f"smoke: {report.duration:5.1f} s  {name}")
