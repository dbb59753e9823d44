"""A page in a headless browser: does it fit, does it draw everything, does it complain."""

import re
import shutil
import subprocess

CHROMIUM = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)
PROBE = """<script>parent.postMessage([
  document.documentElement.scrollWidth <= innerWidth ? "fits" : "too wide",
  document.querySelectorAll(".panel .plot-container").length, "panels"].join(" "), "*");
</script></body>"""
FRAME = """<title>nothing came</title>
<script>addEventListener("message", (m) => { document.title = m.data; });</script>
<iframe src="page.html" style="width: WIDTHpx; height: 2000px; border: 0"></iframe>"""


def assert_drawn(page, folder, width):
    """Every panel is drawn, nothing is wider than the screen, and the console is empty."""
    (folder / "page.html").write_text(page.replace("</body>", PROBE), encoding="utf-8")
    (folder / "frame.html").write_text(FRAME.replace("WIDTH", str(width)), encoding="utf-8")
    options = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-background-networking",
        "--enable-logging=stderr",
    ]
    options += [
        f"--user-data-dir={folder / 'profile'}",
        "--window-size=1400,2000",
        "--virtual-time-budget=10000",
    ]
    command = [str(CHROMIUM), *options, "--dump-dom", (folder / "frame.html").as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    n_panels = len(re.findall(r"data-panel=", page))
    assert f"<title>fits {n_panels} panels</title>" in done.stdout
    assert "CONSOLE" not in done.stderr
