"""The page in a browser without network: every plot is drawn, and no script complains."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from bench_reports import report

from packrank.bench.shown.page import page

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)


def opened(path: Path, profile: Path) -> tuple[list[str], str]:
    """What a browser's console says of a page, and the page when its scripts have run."""
    assert BROWSER is not None
    options = [
        *("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
        *(f"--user-data-dir={profile}", "--proxy-server=127.0.0.1:9", "--no-first-run"),
        *("--enable-logging=stderr", "--window-size=1280,4000", "--virtual-time-budget=4000"),
    ]
    command = [BROWSER, *options, "--dump-dom", path.as_uri()]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    return [line for line in result.stderr.splitlines() if ":CONSOLE" in line], result.stdout


@pytest.mark.skipif(BROWSER is None, reason="there is no Chromium here")
def test_every_plot_is_drawn(tmp_path: Path) -> None:
    made = page(report())
    # A complaint of a script's own proves that complaints are seen.
    (tmp_path / "page.html").write_text(
        made + '<script>console.error("seen")</script><script>nowhere()</script>', encoding="utf-8"
    )
    console, shown = opened(tmp_path / "page.html", tmp_path / "profile")
    assert len(console) == 2, console
    assert '"seen"' in console[0]
    assert "nowhere is not defined" in console[1]
    places = re.split(r'<div class="plot(?=[" ])', shown)[1:]
    assert len(places) == made.count('<div class="plot"')
    for place in places:
        assert 'class="main-svg"' in place
        assert re.search(r'class="(trace|point)', place)
    # A name that holds tags is shown as it is written.
    assert 'mine/&lt;b&gt;"' in shown
