"""The built-in dataset: invented characters, each drawn many times by an unsteady hand.

It needs no download and takes seconds, so the tests, the demo and first experiments use it. A character is two to four
pen strokes, each a smooth curve through a few points of a coarse grid. Each drawing of it moves these points a little,
tilts, shears, scales and shifts the whole, and chooses the width of the pen.

The same seed gives the same bytes on every machine: random numbers are uniform draws of RandomState (its stream is
frozen), and the geometry uses only + - * / and sqrt, which IEEE 754 rounds alike everywhere; sin, exp or a matrix
product may differ in the last bit between CPUs.
"""

from pathlib import Path

import numpy as np

from sources.arrays import save, write_manifest
from sources.maker import SeedSettings
from sources.preparation import Preparation

SPLITS = {"train": 100, "val": 20, "test": 30}  # characters
DRAWINGS = 20  # per character
SIZE = 28  # pixels
GRID = 5  # points along each side of the grid of the strokes' points; it is mapped to [-1, 1] x [-1, 1]
CURVE = 8  # straight pieces between two points of a stroke

# How unsteady the hand is: the largest deviations in a drawing; _bell draws them.
WOBBLE = 0.2  # of each point of a stroke, in units of half a character
TURN = 0.16  # tan(angle / 2): about 18 degrees
SHEAR = 0.3
SCALE = 0.22  # for width and height separately
SHIFT = 3.5  # pixels
PEN = (1.5, 2.6)  # width of the pen, pixels


def make_glyphs(folder: Path, target: Path, settings: SeedSettings) -> dict:
    """Draw the glyphs into `folder`; return its manifest."""
    images = draw_glyphs(sum(SPLITS.values()), DRAWINGS, settings.seed)
    names, first = {}, 0
    for split, count in SPLITS.items():
        save(folder / f"{split}.npy", images[first : first + count])
        names[split] = [f"glyph{c:03d}" for c in range(first, first + count)]
        first += count
    origin = {"given": "glyphs.py", "files": []}
    prepare = Preparation(SIZE, 1, invert=True)._asdict()
    return write_manifest(folder, target.name, names, origin, rotations=4, split_seed=settings.seed, prepare=prepare)


def draw_glyphs(characters: int, drawings: int, seed: int) -> np.ndarray:
    """Draw different characters, `drawings` times each -> uint8 [characters, drawings, SIZE, SIZE, 1], ink 255 on paper
    0. A pure function of its arguments."""
    random = np.random.RandomState(seed)
    images = np.empty((characters, drawings, SIZE, SIZE, 1), np.uint8)
    for c in range(characters):
        strokes = _invent(random)
        for d in range(drawings):
            images[c, d, :, :, 0] = _draw(strokes, random)
    return images


def _bell(random: np.random.RandomState, *shape: int) -> np.ndarray:
    """Draw numbers in [-1, 1], mean 0, standard deviation 1/3: nearly normal, and with the same bits everywhere."""
    return random.random_sample((3, *shape)).sum(axis=0) / 1.5 - 1.0


def _invent(random: np.random.RandomState) -> list[np.ndarray]:
    """Invent a character -> its strokes, float [points, 2] each: (x, y) in [-1, 1], all together centred."""
    strokes: list[np.ndarray] = []
    for _ in range(random.randint(2, 5)):
        points = [random.randint(0, GRID, 2)]
        if strokes and random.random_sample() < 0.75:  # most strokes start on an earlier one
            earlier = strokes[random.randint(len(strokes))]
            points = [earlier[random.randint(len(earlier))]]
        for _ in range(random.randint(1, 4)):
            steps = _steps(points)
            if not steps:  # the stroke is in a corner
                break
            points.append(points[-1] + steps[random.randint(len(steps))])
        strokes.append(np.array(points))
    all_points = np.concatenate(strokes)
    if len(np.unique(all_points, axis=0)) < 4:  # a bare line: its rotations would look the same
        return _invent(random)
    middle = (all_points.min(axis=0) + all_points.max(axis=0)) / 2
    return [2.0 * (stroke - middle) / (GRID - 1) for stroke in strokes]


def _steps(points: list[np.ndarray]) -> list[np.ndarray]:
    """Return the steps from the last point, by up to 3 grid points along each axis, that stay on the grid and turn by
    less than 120 degrees against the previous step."""
    end = points[-1]
    steps = [np.array([dx, dy]) for dx in range(-3, 4) for dy in range(-3, 4) if dx or dy]
    steps = [step for step in steps if (end + step).min() >= 0 and (end + step).max() < GRID]
    if len(points) > 1:
        last = end - points[-2]
        steps = [step for step in steps if 2 * (last * step).sum() > -np.sqrt((last**2).sum() * (step**2).sum())]
    return steps


def _draw(strokes: list[np.ndarray], random: np.random.RandomState) -> np.ndarray:
    """Draw a character once, uint8 [SIZE, SIZE]."""
    t = TURN * _bell(random)  # tan(angle / 2)
    cos, sin = (1 - t * t) / (1 + t * t), 2 * t / (1 + t * t)  # of the angle, without calling cos or sin
    shear = SHEAR * _bell(random)
    width, height = 1 + SCALE * _bell(random, 2)
    shift = SHIFT * _bell(random, 2)
    pen = PEN[0] + (PEN[1] - PEN[0]) * random.random_sample()

    distance = np.full((SIZE, SIZE), np.inf)
    for stroke in strokes:
        x, y = _curve(stroke + WOBBLE * _bell(random, *stroke.shape)).T
        x, y = (x + shear * y) * width, y * height
        x, y = cos * x - sin * y, sin * x + cos * y
        half = 0.34 * SIZE  # the grid takes two thirds of the image
        x, y = half * x + shift[0] + SIZE / 2, half * y + shift[1] + SIZE / 2
        distance = np.minimum(distance, _distance(x, y))
    # A pixel's ink falls from full to none over one pixel at the edge of the line: anti-aliasing.
    ink = np.clip(pen / 2 + 0.5 - distance, 0.0, 1.0)
    return np.floor(255 * ink + 0.5).astype(np.uint8)


def _curve(points: np.ndarray) -> np.ndarray:
    """Return points [(n - 1) * CURVE + 1, 2] on a Catmull-Rom spline through points [n, 2]."""
    padded = np.concatenate([2 * points[:1] - points[1:2], points, 2 * points[-1:] - points[-2:-1]])
    a, b, c, d = (padded[i : len(points) - 1 + i, None] for i in range(4))  # [n-1, 1, 2] each
    u = (np.arange(CURVE) / CURVE)[:, None]
    pieces = b + u * ((c - a) + u * ((2 * a - 5 * b + 4 * c - d) + u * (3 * (b - c) + d - a))) / 2
    return np.concatenate([pieces.reshape(-1, 2), points[-1:]])


def _distance(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the distances in pixels from all pixel centres to the line through points (x, y): [SIZE, SIZE]."""
    centre = np.arange(SIZE) + 0.5
    x, y = x[:, None, None], y[:, None, None]
    dx, dy = np.diff(x, axis=0), np.diff(y, axis=0)  # [pieces, 1, 1]
    px = centre - x[:-1]  # [pieces, 1, SIZE]
    py = centre[:, None] - y[:-1]  # [pieces, SIZE, 1]
    along = np.clip((px * dx + py * dy) / (dx * dx + dy * dy + 1e-12), 0.0, 1.0)  # place of each piece's nearest point
    return np.sqrt((np.square(px - along * dx) + np.square(py - along * dy)).min(axis=0))
