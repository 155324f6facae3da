"""The report in a real browser: everything is drawn, nothing runs, nothing is wider than a phone."""

import html
import json
import re
import shutil
import subprocess

import pytest

from benchmarks.report.command import main
from tests.benchmarks import result_folders

CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")

PROBE = """<!doctype html><meta charset="utf-8"><body>
<iframe src="report.html" style="width:{width}px;height:900px;border:0"></iframe><pre id="seen">nothing</pre><script>
onload = () => {{
  const page = document.querySelector("iframe").contentDocument, root = page.documentElement;
  const style = page.defaultView.getComputedStyle(page.body), images = [...page.images];
  const inside = box => box.getBoundingClientRect().right <= root.clientWidth + 1;
  document.getElementById("seen").textContent = JSON.stringify({{
    title: page.title,
    width: root.clientWidth,
    needed: root.scrollWidth,
    sections: [...page.querySelectorAll("section")].filter(inside).length,
    outside: [...page.querySelectorAll("section, .wide, pre, h1, h2, h3, p")].filter(box => !inside(box)).length,
    clipped: [...page.querySelectorAll("table, img")].filter(shown => {{
      const box = shown.closest(".wide");
      if (!box || page.defaultView.getComputedStyle(box).overflowX != "auto") return true;
      return shown.getBoundingClientRect().right - box.getBoundingClientRect().left > box.scrollWidth + 1;
    }}).length,
    images: images.length,
    drawn: images.filter(image => image.complete && image.naturalWidth > 100).length,
    scrolling: [...page.querySelectorAll(".wide")].filter(box => box.scrollWidth > box.clientWidth).length,
    background: style.backgroundColor,
    colour: style.color,
    loaded: page.defaultView.performance.getEntriesByType("resource").filter(e => !e.name.startsWith("data:")).length,
  }});
}};
</script>"""

HOSTILE = '"><script>document.title="hacked"</script><img src=x onerror="document.title=1">'


def look(folder, width, *, dark=False):
    """Open the page in a frame of a width, and return what the browser made of it."""
    probe = folder / f"probe-{width}.html"
    probe.write_text(PROBE.format(width=width))
    scheme = ["--blink-settings=preferredColorScheme=0"] if dark else []
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files"]
    options = [f"--user-data-dir={folder / 'browser'}", "--window-size=1400,1000", "--virtual-time-budget=20000"]
    shown = subprocess.run(
        [*command, *options, *scheme, "--dump-dom", probe.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    seen = re.search(r'<pre id="seen">(.*?)</pre>', shown.stdout, flags=re.DOTALL).group(1)
    return json.loads(html.unescape(seen))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("browser")
    pinned = [
        {"name": "a.layer.with.a.name." * 8, "size": 64, "reason": "its channels are reshaped, which fixes them. " * 9}
    ]
    result_folders.write_runs(folder / "runs")
    result_folders.write_run(folder / "tiers", pinned=pinned)
    result_folders.write_sweep(folder / "grid", [result_folders.result(method=HOSTILE, task="a-task-with-a-name-" * 6)])
    result_folders.write_ablation(folder / "parts")
    result_folders.write_agents(folder / "agents")
    result_folders.write_methods(folder / "methods")
    assert main([str(folder)]) == 0
    return folder


@pytest.mark.parametrize("width", [360, 1280])
def test_the_page_fits_and_all_pictures_are_drawn(folder, width):
    seen = look(folder, width)
    assert seen["title"].startswith("Results: ")
    assert seen["needed"] <= seen["width"] <= width
    assert seen["outside"] == seen["clipped"] == 0
    assert seen["drawn"] == seen["images"] > 8
    assert seen["sections"] >= 9
    assert seen["loaded"] == 0
    if width == 360:
        assert seen["scrolling"] > 5


def brightness(colour):
    return sum(map(int, re.findall(r"\d+", colour)[:3])) / 765


def test_light_and_dark_follow_the_reader(folder):
    light, dark = look(folder, 800), look(folder, 800, dark=True)
    assert brightness(light["background"]) > 0.9 > 0.2 > brightness(light["colour"])
    assert brightness(dark["background"]) < 0.15 < 0.8 < brightness(dark["colour"])
