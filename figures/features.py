"""Draw stochastic features: the effect of a run's noise on the maps of its layers, image by image."""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures.page import Section
from figures.run import Run
from figures.selection import Selection, pick_channels, pick_layers
from studies import export_format


class Channel(NamedTuple):
    """One channel of one layer for one image, with M samples; `noise` is empty if nothing is multiplied by noise."""

    label: str
    clean: np.ndarray  # [h,w], noise-free
    perturbed: np.ndarray  # [M,h,w]
    noise: np.ndarray  # [M,h,w], the factor


class Panel(NamedTuple):
    """The kind of map in a panel, and the number of the noise sample, if it shows one."""

    kind: str
    sample: int = 0


# The map [h,w] of a panel, by kind.
MAPS = {
    "clean": lambda channel, sample: channel.clean,
    "sample": lambda channel, sample: channel.perturbed[sample],
    "mean": lambda channel, sample: channel.perturbed.mean(0),
    "std": lambda channel, sample: channel.perturbed.std(0),
    "noise": lambda channel, sample: channel.noise[sample],
    "mean noise": lambda channel, sample: channel.noise.mean(0),
}
ACTIVATIONS = ("clean", "sample", "mean")  # grey, with one scale per channel; the other kinds are coloured
BESIDE = {"noise-free": Panel("clean"), "a sample": Panel("sample"), "mean noise": Panel("mean noise")}
TIGHT = {"figure.constrained_layout.h_pad": 0.02, "figure.constrained_layout.w_pad": 0.02}


def count_advances(runs: int, tasks: int) -> int:
    """Return by how many steps `draw` advances the progress bar: one per run and task."""
    return runs * tasks


def draw(runs: list[Run], section: Section, selection: Selection, advance: Callable[..., object]) -> None:
    """Draw the runs that have maps side by side, if there are several. Then draw, for every run, task and image with
    maps, a strip of its channels and an animation of its noise samples."""
    with_maps = [run for run in runs if not obstacle(run)]
    if len(with_maps) > 1:
        draw_side_by_side(with_maps, section, selection)
    for number, run in enumerate(runs):
        if reason := obstacle(run):
            section.note(f"{reason}.")
            advance(len(selection.tasks))
            continue
        places = [
            (layer, place)
            for layer in pick_layers(run.export, selection.layers)
            for place in pick_channels(run.export, layer, selection.channels)
        ]
        prefix = f"features_run{number}" if len(runs) > 1 else "features"
        for task in selection.tasks:
            for image, row in enumerate(run.export["map_images"]):
                draw_image(run, task, row, places, f"{prefix}_task{task}_image{image}", section)
            advance()


def draw_side_by_side(runs: list[Run], section: Section, selection: Selection) -> None:
    """Draw these runs side by side on the images that have maps in all runs, a figure per task, layer and channel."""
    layers = [
        layer
        for layer in pick_layers(runs[0].export, selection.layers)
        if all(layer in export_format.layers(run.export) for run in runs)
    ]
    rows = sorted(set.intersection(*(set(run.export["map_images"].tolist()) for run in runs)))
    for task in selection.tasks if rows else ():
        pixels = [runs[0].export["support_images"][task, row] for row in rows]
        for layer in layers:
            picked = [pick_channels(run.export, layer, selection.channels) for run in runs]
            for choice, places in enumerate(zip(*picked, strict=False)):
                channels = {
                    run.name: [read_channel(run.export, task, row, layer, place) for row in rows]
                    for run, place in zip(runs, places, strict=True)
                }
                caption = (
                    f"{' and '.join(channels)}, task {task}, {layer}: the same training images in one channel per run; "
                    f"the mean noise has one scale for all runs."
                )
                section.add(f"features_beside_task{task}_{layer}_{choice}", caption, side_by_side(pixels, channels))


def draw_image(run: Run, task: int, row: int, places: list[tuple[str, int]], name: str, section: Section) -> None:
    """Draw the maps of one support image. places: (layer, index into the export's map_channels). name: the start of
    the picture files' names."""
    pixels = run.export["support_images"][task, row]
    channels = [read_channel(run.export, task, row, layer, place) for layer, place in places]
    caption = (
        f"{run.name}, task {task}, training image {row}: maps after batch norm and relu, mean and standard deviation "
        f"over {len(channels[0].perturbed)} noise samples"
    )
    section.add(name, f"{caption}.", strip(pixels, channels))
    section.add_animation(f"{name}_samples", f"{caption}; one sample after the other.", frames(pixels, channels))


def read_channel(export: dict, task: int, row: int, layer: str, place: int) -> Channel:
    """Read one channel of the support image `row`. place: index into the export's map_channels."""
    image = export["map_images"].tolist().index(row)
    maps = (export[f"{kind}_{layer}"][task, ..., image, :, :, place] for kind in ("clean", "perturbed", "noise"))
    return Channel(f"{layer} ch {export['map_channels'][place]}", *(each.astype(np.float32) for each in maps))


def obstacle(run: Run) -> str | None:
    """Return why this run has no stochastic features to draw, or None."""
    if not run.perturbs:
        return f"{run.name} has no stochastic features, because no noise perturbs its images"
    if not export_format.layers(run.export):
        return f"{run.name} has no layer maps"
    return None


def strip(pixels: np.ndarray, channels: list[Channel], samples: int = 4) -> Figure:
    """Draw maps for a paper: noise-free, some samples, mean, standard deviation and, if noise is a factor, its mean.

    pixels: the input [H,W,C], uint8.
    """
    samples = min(samples, len(channels[0].perturbed))
    columns = {"noise-free": Panel("clean")} | {f"sample {i + 1}": Panel("sample", i) for i in range(samples)}
    columns |= {"mean": Panel("mean"), "std": Panel("std")}
    if any(len(channel.noise) for channel in channels):
        columns["mean noise"] = Panel("mean noise")
    return grid(pixels, channels, columns)[0]


def frames(pixels: np.ndarray, channels: list[Channel]) -> Iterator[tuple[Figure, int]]:
    """Yield (figure, milliseconds): one noise sample after the other, beside the mean and the standard deviation."""
    moving = {"a sample": Panel("sample")}
    if any(len(channel.noise) for channel in channels):
        moving["its noise"] = Panel("noise")
    columns = {"noise-free": Panel("clean")} | moving | {"mean": Panel("mean"), "std": Panel("std")}
    fig, axes = grid(pixels, channels, columns)
    for sample in range(len(channels[0].perturbed)):
        for row, channel in zip(axes, channels, strict=True):
            for ax, panel in zip(row[1:], moving.values(), strict=False):
                for image in ax.images:
                    image.set_data(MAPS[panel.kind](channel, sample))
        yield fig, 500


@matplotlib.rc_context(TIGHT)
def side_by_side(pixels: list[np.ndarray], channels: dict[str, list[Channel]]) -> Figure:
    """Draw a row per image with the panels of every run. If the noise depends on the image, its mean differs from row
    to row.

    pixels: the inputs [H,W,C], uint8. channels: {run name: one channel, for every input}. The colours of a run's maps
    have one scale for all images; the colours of the mean noise have one scale for all runs, too.
    """
    noise = [channel.noise.mean(0).ravel() for row in channels.values() for channel in row if len(channel.noise)]
    noise_range = np.quantile(np.concatenate(noise or [[0.0, 1.0]]), (0, 1))
    fig = Figure(figsize=(0.98 * (1 + len(BESIDE) * len(channels)), 0.45 + 0.96 * len(pixels)))
    left, *right = fig.subfigures(1, 1 + len(channels), width_ratios=[1, *[len(BESIDE)] * len(channels)])
    left.suptitle(" ")  # as high as the others' titles
    inputs = left.subplots(len(pixels), squeeze=False)[:, 0]
    for ax, image in zip(inputs, pixels, strict=True):
        show(ax, image, vmin=0, vmax=255)
    inputs[0].set_title("input")
    inputs[-1].set_xlabel(" ", fontsize=6, labelpad=1)  # as high as the others' ranges
    for part, (name, row) in zip(right, channels.items(), strict=True):
        whole = Channel(name, *(np.concatenate(maps, -2) for maps in list(zip(*row, strict=True))[1:]))
        part.suptitle(f"{name}, {row[0].label}", fontsize=8)
        axes = part.subplots(len(row), len(BESIDE), squeeze=False)
        draw_panels(axes, row, BESIDE, [ranges_of(whole) | {"mean noise": noise_range}] * len(row))
        for ax in axes[-1]:
            label_range(ax)
    return fig


@matplotlib.rc_context(TIGHT)
def grid(pixels: np.ndarray, channels: list[Channel], columns: dict[str, Panel]) -> tuple[Figure, np.ndarray]:
    """Draw the input, and beside it a row of panels per channel. columns: {title: panel} of every row.

    -> the figure, and the axes of the panels [channels,columns].
    """
    fig = Figure(figsize=(1.7 + 0.95 * len(columns), 0.3 + 1.05 * len(channels)))
    left, right = fig.subfigures(1, 2, width_ratios=(1.5, 0.2 + 0.95 * len(columns)))
    ax = left.subplots()
    show(ax, pixels, vmin=0, vmax=255)
    ax.set_title("input")
    axes = right.subplots(len(channels), len(columns), squeeze=False)
    draw_panels(axes, channels, columns, map(ranges_of, channels))
    for row, channel in zip(axes, channels, strict=True):
        row[0].set_ylabel(channel.label)
        for ax, panel in zip(row, columns.values(), strict=True):
            if ax is row[0] or panel.kind not in ACTIVATIONS:
                label_range(ax)
    return fig, axes


def draw_panels(axes: np.ndarray, channels: list[Channel], columns: dict[str, Panel], ranges: Iterable[dict]) -> None:
    """Draw a row of panels per channel; without noise its panels stay empty. ranges: `ranges_of` every channel."""
    for row, channel, limits in zip(axes, channels, ranges, strict=True):
        for ax, panel in zip(row, columns.values(), strict=True):
            if "noise" in panel.kind and not len(channel.noise):
                ax.set_axis_off()
            else:
                low, high = limits[panel.kind]
                cmap = "gray" if panel.kind in ACTIVATIONS else "viridis"
                show(ax, MAPS[panel.kind](channel, panel.sample), vmin=low, vmax=high, cmap=cmap)
    for ax, title in zip(axes[0], columns, strict=True):
        ax.set_title(title)


def ranges_of(channel: Channel) -> dict[str, tuple[float, float]]:
    """Return {kind of panel: the values of the first and the last colour}."""
    brightest = np.quantile([channel.clean, *channel.perturbed], 0.998)  # a few pixels may be brighter
    ranges = dict.fromkeys(ACTIVATIONS, (0.0, float(brightest) or 1.0))
    ranges["std"] = 0.0, float(channel.perturbed.std(0).max()) or 1.0
    if len(channel.noise):
        for kind, noise in (("noise", channel.noise), ("mean noise", channel.noise.mean(0))):
            ranges[kind] = float(noise.min()), float(noise.max())
    return ranges


def label_range(ax: Axes) -> None:
    """Write the values of the first and the last colour below a panel."""
    for image in ax.images:
        ax.set_xlabel("{:.2g} to {:.2g}".format(*image.get_clim()), fontsize=6, labelpad=1)


def show(ax: Axes, values: np.ndarray, vmin: float, vmax: float, cmap: str = "gray") -> None:
    """Show an image without axes."""
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
    ax.imshow(values, interpolation="nearest", vmin=vmin, vmax=vmax, cmap=cmap)
