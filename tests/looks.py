"""See a figure as a reader does: how each artist looks, which artists a text of the legend stands for, and the colours
of an image. So tests of figures notice a wrong legend, colour map or unit."""

from typing import NamedTuple

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PathCollection, PolyCollection
from matplotlib.colors import to_hex, to_rgba
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.legend import Legend
from matplotlib.lines import Line2D
from matplotlib.markers import MarkerStyle
from matplotlib.patches import Patch

NOTHING = "none"


class Look(NamedTuple):
    """colour: of a line, or of the edge of a mark or patch. line: its style. marker: matplotlib's name. fill:
    the colour in a mark or patch. Colours are #rrggbbaa. A part that is not drawn is NOTHING."""

    colour: str
    line: str
    marker: str
    fill: str


def hexed(colour, alpha=None) -> str:
    """Return a colour as #rrggbbaa; NOTHING if it is transparent."""
    rgba = to_rgba(colour, alpha)
    return to_hex(rgba, keep_alpha=True) if rgba[3] else NOTHING


def look(artist: Artist) -> Look:
    """Return the look of a line, a scatter of equal points, a patch, or error bars."""
    if isinstance(artist, Line2D):
        line, marker = (name if name not in (None, "None", "none", " ", "") else NOTHING
                        for name in (artist.get_linestyle(), artist.get_marker()))  # fmt: skip
        edge = artist.get_markeredgecolor() if artist.get_markeredgewidth() else NOTHING
        colour = edge if line == NOTHING else artist.get_color()
        fill = artist.get_markerfacecolor() if marker != NOTHING else NOTHING
        return Look(hexed(colour, artist.get_alpha()), line, marker, hexed(fill, artist.get_alpha()))
    if isinstance(artist, PathCollection):
        colour, fill = (one_of(colours) for colours in (artist.get_edgecolor(), artist.get_facecolor()))
        return Look(colour if max(artist.get_linewidths()) else NOTHING, NOTHING, marker_of(artist), fill)
    if isinstance(artist, LineCollection):
        return Look(one_of(artist.get_colors()), "-", NOTHING, NOTHING)
    assert isinstance(artist, Patch), artist
    fill = hexed(artist.get_facecolor()) if artist.get_fill() else NOTHING
    return Look(hexed(artist.get_edgecolor()), artist.get_linestyle().replace("solid", "-"), NOTHING, fill)


def one_of(colours: np.ndarray) -> str:
    """Return the only colour of these; NOTHING if there are none."""
    (colour,) = {hexed(colour) for colour in colours} or {NOTHING}
    return colour


def marker_of(points: PathCollection) -> str:
    """Return the name of a scatter's marker, of which it keeps only the path."""
    (path,) = points.get_paths()
    for marker in ("o", "^", "s", "D", "x", "+", "v", "*"):
        style = MarkerStyle(marker)
        vertices = style.get_path().transformed(style.get_transform()).vertices
        if vertices.shape == path.vertices.shape and np.allclose(vertices, path.vertices):
            return marker
    raise AssertionError(f"no marker has the path {path}")


def legend_of(place: Figure | Axes) -> Legend:
    """Return the only legend of a figure or of axes."""
    if isinstance(place, Axes):
        return place.get_legend()
    (legend,) = place.legends
    return legend


def legend(place: Figure | Axes) -> dict[str, Look]:
    """Return the look of the mark beside each text. Texts and looks must be distinct."""
    shown = legend_of(place)
    texts, looks = [text.get_text() for text in shown.get_texts()], [look(handle) for handle in shown.legend_handles]
    assert len(set(texts)) == len(texts) == len(looks), texts
    assert len(set(looks)) == len(looks), (texts, looks)
    return dict(zip(texts, looks, strict=True))


def artists(ax: Axes) -> list[Artist]:
    """Return the artists drawn from data in these axes, without bands, bars, shaded spans and lines across the axes."""
    bars = [bar for container in ax.containers for bar in container.get_children()]
    lines = [line for line in ax.lines if line.get_transform() == ax.transData]
    patches = [patch for patch in ax.patches if patch.get_data_transform() == ax.transData and patch not in bars]
    points = [each for each in ax.collections if not isinstance(each, PolyCollection) and len(each.get_offsets())]
    return [*lines, *points, *patches]


def named(ax: Axes, place: Figure | Axes | None = None) -> dict[str, list[Artist]]:
    """Return, for each text of the legend (default: the figure's), the artists of these axes that look like the mark
    beside it. Each artist must have such a text."""
    looks = legend(place or ax.figure)
    named = {text: [artist for artist in artists(ax) if look(artist) == mark] for text, mark in looks.items()}
    assert sum(map(len, named.values())) == len(artists(ax)), (looks, [look(artist) for artist in artists(ax)])
    return {text: drawn for text, drawn in named.items() if drawn}


def only(ax: Axes, place: Figure | Axes | None = None) -> dict[str, Artist]:
    """Return the same as `named`, where each text stands for one artist."""
    drawn = named(ax, place)
    assert all(len(group) == 1 for group in drawn.values()), drawn
    return {text: artist for text, (artist,) in drawn.items()}


def band(ax: Axes, colour: str) -> np.ndarray:
    """Return x, lowest and highest y, [N,3], of the only band of this colour. Its transparency does not matter."""
    (corners,) = (
        band.get_paths()[0].vertices
        for band in ax.collections
        if isinstance(band, PolyCollection) and one_of(band.get_facecolor())[:7] == hexed(colour)[:7]
    )
    return np.array([(x, *(pick(corners[corners[:, 0] == x, 1]) for pick in (min, max)))
                     for x in np.unique(corners[:, 0])])  # fmt: skip


def colours(image: AxesImage) -> np.ndarray:
    """Return the colours of the values of an image, [H,W,3], 0 to 1."""
    return image.to_rgba(image.get_array())[..., :3]


def colour_of(image: AxesImage, value: float) -> str:
    """Return the colour of a value, as #rrggbb."""
    return to_hex(image.to_rgba(np.array([[value]], float))[0, 0])


def assert_unit(label: str, drawn, fractions) -> None:
    """Check that the drawn values are in the unit of the axis' label: percent, or fractions."""
    factor = 100 if label.endswith("(%)") else 1
    np.testing.assert_allclose(drawn, factor * np.asarray(fractions, float))
