"""The glyphs: their bytes, and how hard they are."""

import hashlib
import json

import numpy as np
import pytest

from originals import command, replace
from sources import glyphs
from sources.glyphs import draw_glyphs

FEW = {"train": 4, "val": 2, "test": 1}


@pytest.fixture
def folder(data_dir):
    return data_dir / "glyphs"


def test_glyphs(folder):
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["split_seed"] == 0 and manifest["rotations"] == 4 and manifest["scale"] == 1 / 255
    arrays = [np.load(folder / f"{split}.npy") for split in ("train", "val", "test")]
    assert [len(array) for array in arrays] == [100, 20, 30]
    np.testing.assert_array_equal(np.concatenate(arrays)[:3], draw_glyphs(3, 20, seed=0))
    assert np.concatenate(arrays).mean(axis=(2, 3, 4)).min() > 2  # no drawing is all but empty


def test_glyphs_by_the_command_line(tmp_path, monkeypatch):
    replace(monkeypatch, glyphs.SPLITS, **FEW)
    assert command("--dataset", "glyphs", "--data_dir", tmp_path, "--seed", 1).returncode == 0
    manifest = json.loads((tmp_path / "glyphs" / "manifest.json").read_text())
    assert manifest["split_seed"] == 1 and manifest["source"] == {"given": "glyphs.py", "files": []}
    assert manifest["prepare"] == {"size": 28, "channels": 1, "invert": True}
    start, drawn = 0, draw_glyphs(7, 20, seed=1)
    for split, count in FEW.items():
        np.testing.assert_array_equal(np.load(tmp_path / "glyphs" / f"{split}.npy"), drawn[start : start + count])
        assert manifest["splits"][split]["names"] == [f"glyph{c:03d}" for c in range(start, start + count)]
        start += count


def test_glyphs_are_the_same_bytes_everywhere():
    """The README's demo is quoted from these drawings."""
    digest = hashlib.sha256(draw_glyphs(12, 4, seed=5).tobytes()).hexdigest()
    assert digest[:16] == "184816f1294c8776"


def test_glyphs_are_neither_hopeless_nor_easy(folder):
    """5-way 1-shot, nearest neighbour in pixels: well above chance (20 %), well below what can be learnt."""
    images = np.load(folder / "test.npy")
    images = np.concatenate([np.rot90(images, r, (2, 3)) for r in range(4)]).reshape(120, 20, -1) / 255.0
    random, right = np.random.RandomState(0), []
    for _ in range(1000):
        chosen = images[random.choice(120, 5, False)][:, random.choice(20, 4, False)]
        distance = ((chosen[:, 1:, None] - chosen[:, 0]) ** 2).sum(axis=-1)
        right.append((distance.argmin(axis=-1) == np.arange(5)[:, None]).mean())
    assert 0.6 < np.mean(right) < 0.75
