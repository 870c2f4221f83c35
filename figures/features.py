"""Stochastic features: what the noise of a run does to the maps of its layers, image by image."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from errors import UserError
from figures.page import Section
from figures.run import Run
from figures.selection import Selection, pick_channels, pick_layers
from studies import export_format


class Channel(NamedTuple):
    """One channel of one layer, for one image. Without a multiplied noise, its M is 0."""

    label: str
    clean: np.ndarray  # [h,w], noise-free
    perturbed: np.ndarray  # [M,h,w]
    noise: np.ndarray  # [M,h,w], what was multiplied


class Panel(NamedTuple):
    """What a panel shows of a channel; for some kinds of panel, of one of its noise samples."""

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
OF_NOISE = ("noise", "mean noise")  # empty panels where nothing is multiplied
ACTIVATIONS = ("clean", "sample", "mean")  # grey, and on one scale for a channel; the other kinds are coloured


def work(runs: int, tasks: int) -> int:
    """How far `draw` advances: all pictures of a run's task count as one."""
    return runs * tasks


def draw(runs: list[Run], section: Section, selection: Selection, advance: Callable[..., object]) -> None:
    """The runs that have maps side by side, where there are several; and for every run, task and image of the maps: a
    strip of its channels, and the same with moving samples."""
    with_maps = [run for run in runs if not obstacle(run)]
    if len(with_maps) > 1:
        draw_beside(with_maps, section, selection)
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
            for image in range(len(run.export["map_images"])):
                draw_image(run, task, image, places, f"{prefix}_task{task}_image{image}", section)
            advance()


def draw_beside(runs: list[Run], section: Section, selection: Selection) -> None:
    """A picture for every task, layer and choice of a channel: the images that have maps in all of these runs."""
    exports = {run.name: run.export for run in runs}
    places_of = {  # layer -> for every choice, the place of each run's channel
        layer: list(
            zip(*(pick_channels(export, layer, selection.channels) for export in exports.values()), strict=False)
        )
        for layer in pick_layers(runs[0].export, selection.layers)
        if all(layer in export_format.layers(export) for export in exports.values())
    }
    numbers = {name: export["map_images"].tolist() for name, export in exports.items()}
    rows = sorted(set.intersection(*map(set, numbers.values())))
    for task in selection.tasks if rows else ():
        pixels = [runs[0].export["support_images"][task, row] for row in rows]
        for layer, choices in places_of.items():
            for choice, places in enumerate(choices):
                channels = {
                    name: [read_channel(export, task, numbers[name].index(row), layer, place) for row in rows]
                    for (name, export), place in zip(exports.items(), places, strict=True)
                }
                caption = (
                    f"{' and '.join(exports)}, task {task}, {layer}: the same training images in one channel of each; "
                    f"the mean noise is on one scale for all"
                )
                section.add(f"features_beside_task{task}_{layer}_{choice}", f"{caption}.", beside(pixels, channels))


def draw_image(run: Run, task: int, image: int, places: list[tuple[str, int]], name: str, section: Section) -> None:
    """The maps of one support image, number `image` of those that have maps.

    places: layers, and places in the export's map_channels. name: that of the picture files.
    """
    export = run.export
    row, copies = export["map_images"][image], export["perturbed_features"].shape[2]
    pixels = export["support_images"][task, row]
    channels = [read_channel(export, task, image, layer, place) for layer, place in places]
    caption = (
        f"{run.name}, task {task}, training image {row}: maps after batch norm and relu, mean and standard deviation "
        f"over {copies} noise samples"
    )
    section.add(name, f"{caption}.", strip(pixels, channels))
    section.add_animation(f"{name}_samples", f"{caption}; one sample after the other.", frames(pixels, channels))


def read_channel(export: dict, task: int, image: int, layer: str, place: int) -> Channel:
    """place: that of the channel in the export's map_channels."""
    return Channel(
        label=f"{layer} ch {export['map_channels'][place]}",
        clean=export[f"clean_{layer}"][task, image, ..., place].astype(np.float32),
        perturbed=export[f"perturbed_{layer}"][task, :, image, ..., place].astype(np.float32),
        noise=export[f"noise_{layer}"][task, :, image, ..., place].astype(np.float32),
    )


def obstacle(run: Run) -> str | None:
    """Why this run has no stochastic features; None where it has them."""
    if not run.perturbs:
        return f"{run.name} perturbs nothing: it has no stochastic features"
    if not export_format.layers(run.export):
        return f"{run.name} has no layer maps"
    return None


def refuse_without_features(runs: list[Run]) -> None:
    """UserError where none of the runs has stochastic features."""
    if not any(run.perturbs for run in runs):
        names = ", ".join(run.name for run in runs)
        raise UserError(f"{names}: nothing is perturbed, so there are no stochastic features")
    if all(obstacle(run) for run in runs):
        raise UserError("; ".join(obstacle(run) for run in runs))


def strip(pixels: np.ndarray, channels: list[Channel], samples: int = 4) -> Figure:
    """For papers: noise-free, some samples, mean, standard deviation, and the mean noise where it multiplies.

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
    fig, images = grid(pixels, channels, columns)
    for sample in range(len(channels[0].perturbed)):
        for panel in moving.values():
            for image, channel in images[panel.kind]:
                image.set_data(MAPS[panel.kind](channel, sample))
        yield fig, 500


BESIDE = {"noise-free": Panel("clean"), "a sample": Panel("sample"), "mean noise": Panel("mean noise")}
TIGHT = {"figure.constrained_layout.h_pad": 0.02, "figure.constrained_layout.w_pad": 0.02}


@matplotlib.rc_context(TIGHT)
def beside(pixels: list[np.ndarray], channels: dict[str, list[Channel]]) -> Figure:
    """A row for every image, and in it the panels of every run. Does the noise see the image? Then its mean differs
    from row to row.

    pixels: the inputs [H,W,C], uint8. channels: by the runs' names, one channel of each run for every input. The
    colours of a run's maps have one scale for all images, those of the mean noise one scale for all runs, too.
    """
    noises = [channel.noise.mean(0) for own in channels.values() for channel in own if len(channel.noise)]
    noise_range = (float(np.min(noises)), float(np.max(noises))) if noises else (0.0, 1.0)
    fig = Figure(figsize=(0.98 * (1 + len(BESIDE) * len(channels)), 0.45 + 0.96 * len(pixels)))
    left, *right = fig.subfigures(1, 1 + len(channels), width_ratios=[1, *[len(BESIDE)] * len(channels)])
    left.suptitle(" ")  # of the height of the others' titles
    inputs = left.subplots(len(pixels), squeeze=False)[:, 0]
    for ax, image in zip(inputs, pixels, strict=True):
        draw_input(ax, image)
        ax.set_title("")
    inputs[0].set_title("input")
    inputs[-1].set_xlabel(" ", fontsize=6, labelpad=1)  # of the height of the others' ranges
    for part, (name, own) in zip(right, channels.items(), strict=True):
        whole = Channel(own[0].label, *(np.concatenate(maps, -2) for maps in list(zip(*own, strict=True))[1:]))
        ranges = {kind: colour_range(whole, kind) for kind in ACTIVATIONS} | {"mean noise": noise_range}
        part.suptitle(f"{name}, {own[0].label}", fontsize=8)
        axes = part.subplots(len(own), len(BESIDE), squeeze=False)
        for row, channel in zip(axes, own, strict=True):
            for ax, panel in zip(row, BESIDE.values(), strict=True):
                if panel.kind in OF_NOISE and not len(channel.noise):
                    ax.set_axis_off()
                else:
                    draw_panel(ax, channel, panel, ranges[panel.kind], with_range=ax in axes[-1])
        for ax, title in zip(axes[0], BESIDE, strict=True):
            ax.set_title(title)
    return fig


@matplotlib.rc_context(TIGHT)
def grid(
    pixels: np.ndarray, channels: list[Channel], columns: dict[str, Panel]
) -> tuple[Figure, dict[str, list[tuple[AxesImage, Channel]]]]:
    """The input, and beside it a row of panels for every channel. columns: the panels of a row, by their titles.

    -> the figure, and by kind of panel its images and the channels that they show.
    """
    fig = Figure(figsize=(1.7 + 0.95 * len(columns), 0.3 + 1.05 * len(channels)))
    left, right = fig.subfigures(1, 2, width_ratios=(1.5, 0.2 + 0.95 * len(columns)))
    draw_input(left.subplots(), pixels)
    axes = right.subplots(len(channels), len(columns), squeeze=False)
    images = {panel.kind: [] for panel in columns.values()}
    for row, channel in zip(axes, channels, strict=True):
        for ax, panel in zip(row, columns.values(), strict=True):
            if panel.kind in OF_NOISE and not len(channel.noise):
                ax.set_axis_off()
            else:
                grey = panel.kind in ACTIVATIONS
                colours = colour_range(channel, panel.kind)
                image = draw_panel(ax, channel, panel, colours, with_range=not grey or ax is row[0])
                images[panel.kind].append((image, channel))
        row[0].set_ylabel(channel.label)
    for ax, title in zip(axes[0], columns, strict=True):
        ax.set_title(title)
    return fig, images


def draw_input(ax: Axes, pixels: np.ndarray) -> None:
    """pixels [H,W,C] uint8, grey or colour."""
    show(ax, pixels[..., 0] if pixels.shape[-1] == 1 else pixels, vmin=0, vmax=255, cmap="gray")
    ax.set_title("input")


def draw_panel(ax: Axes, channel: Channel, panel: Panel, colours: tuple[float, float], with_range: bool) -> AxesImage:
    """One map. colours: the values that get the first and the last of them; with_range: these are under it."""
    low, high = colours
    grey = panel.kind in ACTIVATIONS
    values = MAPS[panel.kind](channel, panel.sample)
    image = show(ax, values, vmin=low, vmax=high, cmap="gray" if grey else "viridis")
    if with_range:
        ax.set_xlabel(f"{low:.2g} to {high:.2g}", fontsize=6, labelpad=1)
    return image


def colour_range(channel: Channel, kind: str) -> tuple[float, float]:
    """The values that get the first and the last colour of such a panel."""
    if kind in ACTIVATIONS:  # a few pixels may shine
        return 0.0, float(np.quantile([channel.clean, *channel.perturbed], 0.998)) or 1.0
    if kind == "std":
        return 0.0, float(channel.perturbed.std(0).max()) or 1.0
    noise = channel.noise.mean(0) if kind == "mean noise" else channel.noise
    return float(noise.min()), float(noise.max())


def show(ax: Axes, values: np.ndarray, **style) -> AxesImage:
    """An image without axes."""
    ax.set(xticks=[], yticks=[])
    for side in ax.spines.values():
        side.set_visible(False)
    return ax.imshow(values, interpolation="nearest", **style)
