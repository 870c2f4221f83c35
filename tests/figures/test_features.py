"""Stochastic features: every panel shows the map of its title, in colours with the range below it."""

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image, ImageSequence

from figures import features
from figures.page import Section
from figures.run import Run
from figures.selection import Selection, pick_channels, pick_layers
from left_runs import fake_export, write_run
from looks import colour_of, colours
from plotting import QUICK, draw
from studies import export_format

BLACK, WHITE = "#000000", "#ffffff"
VIOLET, YELLOW = "#440154", "#fde725"  # the first and the last of viridis


def a_channel(label="conv1 ch 0", seed=0, noise=True) -> features.Channel:
    rng = np.random.default_rng(seed)
    perturbed = rng.random((6, 5, 5))
    return features.Channel(label, rng.random((5, 5)), perturbed, 1 + rng.random((6 if noise else 0, 5, 5)))


def the_map(title: str, channel: features.Channel) -> np.ndarray:
    """Return the map that a panel with this title must show."""
    kind, _, number = title.partition(" ")
    if kind == "sample":
        return channel.perturbed[int(number) - 1]
    whole = {"noise-free": channel.clean, "a sample": channel.perturbed[0], "mean": sum(channel.perturbed) / 6}
    whole["std"] = np.sqrt(sum((x - whole["mean"]) ** 2 for x in channel.perturbed) / 6)
    if len(channel.noise):
        whole |= {"mean noise": sum(channel.noise) / 6, "its noise": channel.noise[0]}
    return whole[title]


def assert_panel(ax, title: str, channel: features.Channel) -> None:
    """Check that the panel shows the map of its title: activations from black, 0, to white, the others from violet to
    yellow."""
    (image,) = ax.images
    np.testing.assert_allclose(image.get_array(), the_map(title, channel))
    low, high = image.get_clim()
    grey = title not in ("std", "mean noise", "its noise")
    assert (colour_of(image, low), colour_of(image, high)) == ((BLACK, WHITE) if grey else (VIOLET, YELLOW))
    if grey or title == "std":
        assert low == 0
    if ax.get_xlabel():
        assert ax.get_xlabel() == f"{low:.2g} to {high:.2g}"


def test_a_strips_panels_are_what_their_titles_and_rows_say():
    channels = [a_channel("conv1 ch 3"), a_channel("conv2 ch 7", 1)]
    fig = features.strip(np.zeros((5, 5, 1), np.uint8), channels)
    rows = np.reshape(fig.axes[1:], (2, 8))
    titles = [ax.get_title() for ax in rows[0]]
    assert titles == ["noise-free", *(f"sample {i}" for i in (1, 2, 3, 4)), "mean", "std", "mean noise"]
    for row, channel in zip(rows, channels, strict=True):
        assert row[0].get_ylabel() == channel.label
        for ax, title in zip(row, titles, strict=True):
            assert_panel(ax, title, channel)
        # the range is under each scale: of the activations under the first
        assert [bool(ax.get_xlabel()) for ax in row] == [True] + 5 * [False] + 2 * [True]
        brightest = np.quantile([channel.clean, *channel.perturbed], 0.998)
        np.testing.assert_allclose([ax.images[0].get_clim() for ax in row[:6]], 6 * [(0, brightest)])
        assert row[6].images[0].get_clim()[1] == pytest.approx(the_map("std", channel).max())
        assert row[7].images[0].get_clim() == pytest.approx(np.quantile(the_map("mean noise", channel), (0, 1)))


def test_a_frames_panels_are_what_their_titles_say():
    channel = a_channel()
    for sample, (fig, _) in enumerate(features.frames(np.zeros((5, 5, 1), np.uint8), [channel])):
        panels = {ax.get_title(): ax for ax in fig.axes[1:]}
        assert list(panels) == ["noise-free", "a sample", "its noise", "mean", "std"]
        turned = channel._replace(
            **{name: np.roll(getattr(channel, name), -sample, 0) for name in ("perturbed", "noise")}
        )
        for title, ax in panels.items():
            assert_panel(ax, title, turned)
        assert panels["its noise"].images[0].get_clim() == (channel.noise.min(), channel.noise.max())  # of all frames


def test_the_input_is_shown_as_it_is():
    """Grey: 255 is white; in colours: as they are."""
    grey = np.arange(0, 250, 10, dtype=np.uint8).reshape(5, 5, 1)
    grey[4, 4] = 255
    colourful = np.random.default_rng(0).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    for pixels in (grey, colourful):
        ax = features.strip(pixels, [a_channel()]).axes[0]
        assert ax.get_title() == "input"
        np.testing.assert_allclose(colours(ax.images[0]), np.broadcast_to(pixels, (5, 5, 3)) / 255, atol=1e-6)


def test_the_channels_that_vary_most_are_drawn():
    export = fake_export()
    maps = export["perturbed_conv2"].astype(np.float32)
    centre = maps.mean(1, keepdims=True)
    for place, factor in enumerate((0.5, 2, 0.1, 1)):
        maps[..., place] = (centre + factor * (maps - centre))[..., place]
    export["perturbed_conv2"] = maps.astype(np.float16)
    assert pick_channels(export, "conv2", ()) == [0, 1, 3]
    assert pick_channels(export, "conv2", (7, 0)) == [3, 0]
    assert pick_layers(export, ()) == ["conv1", "conv2"]


def test_captions_name_the_run_the_task_the_image_and_the_samples(monkeypatch):
    runs, asked = [Run(None, {}, name) for name in ("one", "other")], {}
    for seed, run in enumerate(runs):
        run.__dict__["export"] = fake_export(shot=2, seed=seed, copies=5) | {"map_images": np.array([0, 2])}
    section = Section("Stochastic features", ["png"], 40)
    for name in ("strip", "frames", "side_by_side"):
        monkeypatch.setattr(features, name, lambda *args, name=name: (name, *args))
    for add in ("add", "add_animation"):
        monkeypatch.setattr(section, add, lambda name, caption, fig: asked.update({name: (caption, fig)}))
    features.draw(runs, section, Selection(tasks=(1,), layers=("conv2",), channels=(5,)), lambda *_: None)
    caption, (_, pixels, channels) = asked.pop("features_beside_task1_conv2_0")
    assert caption.startswith("one and other, task 1, conv2: the same training images")
    np.testing.assert_array_equal(pixels, runs[0].export["support_images"][1, [0, 2]])
    assert list(channels) == ["one", "other"]
    for run in runs:
        for image, channel in enumerate(channels[run.name]):
            np.testing.assert_array_equal(channel.noise, run.export["noise_conv2"][1, :, image, ..., 2])
    assert len(asked) == 2 * 2 * 2
    for name, (caption, (what, pixels, (channel,))) in asked.items():
        assert name.endswith("_samples") == (what == "frames") == ("one sample after the other" in caption)
        run, image = (int(name[name.index(word) + len(word)]) for word in ("run", "image"))
        row = (0, 2)[image]
        assert caption.startswith(f"{runs[run].name}, task 1, training image {row}: maps after batch norm and relu")
        assert "mean and standard deviation over 5 noise samples" in caption
        np.testing.assert_array_equal(pixels, runs[run].export["support_images"][1, row])
        np.testing.assert_array_equal(channel.noise, runs[run].export["noise_conv2"][1, :, image, ..., 2])
        assert channel.label == "conv2 ch 5"


def test_stochastic_features_of_colour_images(tmp_path):
    d = write_run(tmp_path / "a", image_shape=(84, 84, 3))
    flags = ("--figures", "features", "--tasks", 1, "--layers", "conv3", "--channels", 5, 3, *QUICK)
    draw("--savedir", d, *flags)
    assert len(list((d / "plot").glob("features_task1_image*_samples.gif"))) == 2
    with Image.open(d / "plot/features_task1_image0_samples.gif") as gif:
        assert gif.n_frames == 4 and gif.info["duration"] == 500
        frames = [np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(gif)]
    assert (frames[0] != frames[1]).any() and (frames[0][:, :100] == frames[1][:, :100]).all()  # only samples move


def test_a_layer_without_a_multiplied_noise_has_an_empty_panel_for_it():
    channels = [a_channel("a"), a_channel("b", noise=False)]
    for both in (channels, channels[::-1]):
        rows = np.reshape(features.strip(np.zeros((5, 5, 1), np.uint8), both).axes[1:], (2, -1))
        assert rows[0, -1].get_title() == "mean noise"
        for row, channel in zip(rows, both, strict=True):
            assert [bool(ax.images) for ax in row] == [True] * 7 + [len(channel.noise) > 0]
        assert len(list(features.frames(np.zeros((5, 5, 1), np.uint8), both))) == 6


def test_side_by_side_every_run_has_its_own_channel_and_the_noise_one_scale():
    """Three runs on two images: constant noise, noise that depends on the image, and nothing multiplied."""
    rng = np.random.default_rng(0)
    pixels = [np.full((5, 5, 1), value, np.uint8) for value in (10, 200)]

    def channels(label, *noises):
        return [features.Channel(label, rng.random((5, 5)), rng.random((6, 5, 5)), noise) for noise in noises]

    runs = {
        "same": channels("conv1 ch 3", np.full((6, 5, 5), 0.5), np.full((6, 5, 5), 0.5)),
        "seeing": channels("conv1 ch 7", np.full((6, 5, 5), 0.25), np.full((6, 5, 5), 2.0)),
        "added": channels("conv1 ch 0", *2 * [np.empty((0, 5, 5))]),
    }
    fig = features.side_by_side(pixels, runs)
    left, *right = fig.subfigs
    assert [colour_of(ax.images[0], ax.images[0].get_array()[0, 0]) for ax in left.axes] == ["#0a0a0a", "#c8c8c8"]
    assert [ax.get_title() for ax in left.axes] == ["input", ""]
    assert [part.get_suptitle() for part in right] == ["same, conv1 ch 3", "seeing, conv1 ch 7", "added, conv1 ch 0"]
    for part, own in zip(right, runs.values(), strict=True):
        rows = np.reshape(part.axes, (2, 3))
        assert [ax.get_title() for ax in rows[0]] == ["noise-free", "a sample", "mean noise"]
        brightest = {np.quantile([c.clean for c in own] + [c.perturbed[m] for c in own for m in range(6)], 0.998)}
        for row, channel in zip(rows, own, strict=True):
            shown = ("noise-free", "a sample", "mean noise") if len(channel.noise) else ("noise-free", "a sample")
            for ax, title in zip(row, shown, strict=False):
                assert_panel(ax, title, channel)
            np.testing.assert_allclose([ax.images[0].get_clim()[1] for ax in row[:2]], [*brightest] * 2)
            if len(channel.noise):
                assert row[2].images[0].get_clim() == (0.25, 2.0)
            else:
                assert not row[2].images and not row[2].axison


def test_runs_are_side_by_side_on_the_same_images_with_the_channels_of_each(monkeypatch, tmp_path):
    drawn = []
    monkeypatch.setattr(features, "side_by_side", lambda *args: drawn.append(args) or Figure((0.1, 0.1)))
    monkeypatch.setattr(features, "draw_image", lambda *args: None)
    runs = [write_run(tmp_path / name, seed=seed) for seed, name in enumerate("abc")]
    runs.append(write_run(tmp_path / "maml", "maml"))
    flags = ("--figures", "features", "--tasks", 1, "--layers", "conv2", "conv3", *QUICK)
    draw("--savedir", *runs, *flags)
    assert len(drawn) == 2 * 3 and len(list((runs[0] / "plot").glob("features_beside_task1_conv[23]_[012].png"))) == 6
    exports = [dict(np.load(d / export_format.NAME)) for d in runs[:3]]
    for number, (pixels, channels) in enumerate(drawn):
        layer, choice = ("conv2", "conv3")[number // 3], number % 3
        np.testing.assert_array_equal(pixels, exports[0]["support_images"][1, [0, 1]])
        assert list(channels) == [f"Meta-dropout ({name})" for name in "abc"]
        for export, own in zip(exports, channels.values(), strict=True):
            place = pick_channels(export, layer, ())[choice]
            assert {channel.label for channel in own} == {f"{layer} ch {export['map_channels'][place]}"}
            for image, channel in enumerate(own):
                np.testing.assert_array_equal(channel.clean, export[f"clean_{layer}"][1, image, ..., place])
                np.testing.assert_array_equal(channel.noise, export[f"noise_{layer}"][1, :, image, ..., place])
    drawn.clear()
    draw("--savedir", runs[0], runs[3], *flags)
    assert not drawn  # one run alone has features
