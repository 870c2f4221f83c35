"""The page shows every figure, loads nothing from the network, and a browser can load it."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from figures.page import Page
from left_runs import STEPS, write_run
from plotting import Links, draw


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    """The page of two runs, with every figure."""
    folder = tmp_path_factory.mktemp("page")
    runs = [write_run(folder / name, name, images=1) for name in ("maml", "metadrop")]
    draw("--savedir", runs[0], "--savedir", runs[1], "--tasks", 1, "--layers", "conv2", "--dpi", 40)
    return runs[0] / "plot/index.html"


def test_a_name_that_is_not_utf8_stands_on_the_page_as_python_escapes_it(tmp_path):
    made = Page(tmp_path, [], [], 40)
    made.finish("title", {os.fsdecode(b"caf\xe9"): {}}, {"savedir": [os.fsdecode(b"caf\xe9")]})
    assert (tmp_path / "index.html").read_text(encoding="utf-8").count(r"caf\udce9") == 2


def test_the_page_shows_every_figure_and_needs_nothing_from_elsewhere(page):
    text, links = page.read_text(), Links()
    links.feed(text)
    drawn = {p.name for p in page.parent.iterdir() if p.suffix in (".png", ".gif")}
    assert set(links.images) == drawn and len(drawn) == 3 + 2 + 2
    assert all((page.parent / link).is_file() for link in links.links)
    assert {p.stem for p in page.parent.glob("*.png")} == {p.stem for p in page.parent.glob("*.pdf")}
    assert "script" not in links.tags and "link" not in links.tags and "http" not in text
    assert "&lt;omniglot &amp; more&gt;" in text and "<omniglot" not in text
    assert "MAML has no stochastic features" in text and "not paired" not in text
    with Image.open(page.parent / "boundary_task1_steps.gif") as gif:
        assert gif.n_frames == 6 * STEPS + 1 and gif.info["loop"] == 0
        assert np.asarray(gif.convert("RGB"))[0, 0].tolist() == [255] * 3


def test_each_picture_is_under_its_heading_with_its_caption_and_settings_under_their_run(page):
    text = page.read_text()
    parts = re.split(r"<h2>(.*?)</h2>", text)[1:]
    sections = dict(zip(parts[::2], parts[1::2], strict=True))
    shown = {title: re.findall(r'<figure><img src="(\w+)\.', part) for title, part in sections.items()}
    assert shown == {
        "Decision boundaries": ["boundary_tasks", "boundary_task1", "boundary_task1_steps"],
        "Stochastic features": ["features_run1_task1_image0", "features_run1_task1_image0_samples"],
        "Learning curves": ["curves"],
        "Accuracies of the test episodes": ["histogram"],
        "Neural collapse": [],
        "Robustness": [],
        "Settings": [],
    }
    captions = dict(re.findall(r'src="(\w+)\.\w+" alt="(.*?)"><figcaption>', text))
    assert "task 1" in captions["features_run1_task1_image0"] and captions["boundary_task1"].startswith("Task 1,")
    assert captions["curves"].startswith("Meta-training: loss") and "40 test episodes" in captions["histogram"]
    for name, caption in captions.items():
        assert f'alt="{caption}"><figcaption>{caption} <a href="{name}.' in text
    links = re.findall(r'<a href="\w+\.(\w+)">(\w+)</a>', text)
    assert {said: kind for kind, said in links} == {"PNG": "png", "PDF": "pdf", "GIF": "gif"}
    rows = re.findall(r"<tr><th>(.*?)</th>(.*?)</tr>", sections["Settings"])
    cells = {name: re.findall(r"<t[hd]>(.*?)</t[hd]>", row) for name, row in rows}
    assert cells[""] == ["MAML", "Meta-dropout"] and cells["model"] == ["maml", "metadrop"]
    assert cells["stochastic"] == ["False", "True"]
    assert (
        "Drawn with: --figures boundary features curves histogram, --tasks 1, --classes 0 1, --seed 0, --layers conv2."
        in text
    )
    assert "<h1>MAML and Meta-dropout</h1>" in text


BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.mark.skipif(BROWSER is None, reason="no chromium, chromium-browser or google-chrome on the PATH")
def test_a_browser_loads_every_picture_of_the_page(page, tmp_path):
    report = """<script>addEventListener("load", () => { document.body.innerHTML = Array.from(
      document.images, i => `[${i.getAttribute("src")} ${i.naturalWidth}x${i.naturalHeight}]`).join("") +
      `width ${document.documentElement.scrollWidth}` })</script>"""
    wrapper = page.with_name("in_a_browser.html")
    wrapper.write_text(page.read_text().replace("</body>", report + "</body>"))
    flags = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    flags += " --disable-component-update --disable-sync --disable-dev-shm-usage --window-size=800,600 --dump-dom"
    command = [BROWSER, *flags.split(), f"--user-data-dir={tmp_path}", wrapper.as_uri()]
    home = os.environ | dict.fromkeys(("HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME"), str(tmp_path))
    done = subprocess.run(command, env=home, capture_output=True, text=True, timeout=150, check=False)
    wrapper.unlink()
    loaded = re.findall(r"\[(\S+) (\d+)x(\d+)\]", done.stdout)
    assert len(loaded) == 7, done.stdout + done.stderr
    for name, width, height in loaded:
        with Image.open(page.parent / name) as image:
            assert image.size == (int(width), int(height))
    assert int(re.search(r"width (\d+)", done.stdout)[1]) <= 800  # nothing is wider than the window
