"""What somebody sees who looks at a figure: how each artist looks, which artists a legend's text stands for, and the
colours of an image. Tests of figures ask these, so that a legend, a colour map or a unit that lies fails."""

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
    """colour: of a line, or of the edge of a mark or patch. line: its style. marker: as matplotlib calls it. fill: the
    colour inside a mark or patch. Colours are #rrggbbaa; what is not drawn is NOTHING."""

    colour: str
    line: str
    marker: str
    fill: str


def hexed(colour, alpha=None) -> str:
    """Any colour as #rrggbbaa; NOTHING where it cannot be seen."""
    rgba = to_rgba(colour, alpha)
    return to_hex(rgba, keep_alpha=True) if rgba[3] else NOTHING


def look(artist: Artist) -> Look:
    """How a line, a scatter's points of one look, a patch, or error bars look."""
    if isinstance(artist, Line2D):
        line, marker = (own if own not in (None, "None", "none", " ", "") else NOTHING
                        for own in (artist.get_linestyle(), artist.get_marker()))  # fmt: skip
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
    """The one colour of these; NOTHING where there are none."""
    found = {hexed(colour) for colour in colours} or {NOTHING}
    (colour,) = found
    return colour


def marker_of(points: PathCollection) -> str:
    """A scatter keeps its marker's path alone."""
    (path,) = points.get_paths()
    for marker in ("o", "^", "s", "D", "x", "+", "v", "*"):
        style = MarkerStyle(marker)
        own = style.get_path().transformed(style.get_transform())
        if own.vertices.shape == path.vertices.shape and np.allclose(own.vertices, path.vertices):
            return marker
    raise AssertionError(f"no marker has the path {path}")


def legend_of(place: Figure | Axes) -> Legend:
    """The one legend of a figure, or of axes."""
    if isinstance(place, Axes):
        return place.get_legend()
    (legend,) = place.legends
    return legend


def legend(place: Figure | Axes) -> dict[str, Look]:
    """The look of the mark beside each text, which have to be distinct, texts and looks."""
    own = legend_of(place)
    texts, looks = [text.get_text() for text in own.get_texts()], [look(handle) for handle in own.legend_handles]
    assert len(set(texts)) == len(texts) == len(looks), texts
    assert len(set(looks)) == len(looks), (texts, looks)
    return dict(zip(texts, looks, strict=True))


def artists(ax: Axes) -> list[Artist]:
    """What is drawn from data in these axes, but for bands, bars, shaded spans, and lines across the whole axes."""
    bars = [bar for container in ax.containers for bar in container.get_children()]
    lines = [line for line in ax.lines if line.get_transform() == ax.transData]
    patches = [patch for patch in ax.patches if patch.get_data_transform() == ax.transData and patch not in bars]
    points = [own for own in ax.collections if not isinstance(own, PolyCollection) and len(own.get_offsets())]
    return [*lines, *points, *patches]


def named(ax: Axes, place: Figure | Axes | None = None) -> dict[str, list[Artist]]:
    """The artists of these axes that each text of the legend (default: their figure's) stands for: those that look as
    the mark beside it does. Each artist has to have such a text."""
    looks = legend(place or ax.figure)
    found = {text: [artist for artist in artists(ax) if look(artist) == own] for text, own in looks.items()}
    assert sum(map(len, found.values())) == len(artists(ax)), (looks, [look(artist) for artist in artists(ax)])
    return {text: own for text, own in found.items() if own}


def only(ax: Axes, place: Figure | Axes | None = None) -> dict[str, Artist]:
    """As `named`, where each text stands for one artist."""
    found = named(ax, place)
    assert all(len(own) == 1 for own in found.values()), found
    return {text: own for text, (own,) in found.items()}


def band(ax: Axes, colour: str) -> np.ndarray:
    """x, lowest and highest y, [N,3], of the one band of this colour (its own transparency does not count)."""
    (corners,) = (
        band.get_paths()[0].vertices
        for band in ax.collections
        if isinstance(band, PolyCollection) and one_of(band.get_facecolor())[:7] == hexed(colour)[:7]
    )
    return np.array([(x, *(pick(corners[corners[:, 0] == x, 1]) for pick in (min, max)))
                     for x in np.unique(corners[:, 0])])  # fmt: skip


def colours(image: AxesImage) -> np.ndarray:
    """The colours in which its values are drawn, [H,W,3], 0 to 1."""
    return image.to_rgba(image.get_array())[..., :3]


def colour_of(image: AxesImage, value: float) -> str:
    """The colour in which a value is drawn, as #rrggbb."""
    return to_hex(image.to_rgba(np.array([[value]], float))[0, 0])


def assert_unit(label: str, drawn, fractions) -> None:
    """Values are drawn in the unit that the axis' label says: percent of the fractions, or these."""
    factor = 100 if label.endswith("(%)") else 1
    np.testing.assert_allclose(drawn, factor * np.asarray(fractions, float))
