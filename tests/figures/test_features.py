"""Stochastic features: every panel shows the numbers that its title says."""

import numpy as np
from matplotlib.figure import Figure
from PIL import Image, ImageSequence

from figures import features
from figures.selection import pick_channels
from left_runs import write_run
from plotting import QUICK, draw
from studies import export_format


def test_stochastic_features_of_colour_images(monkeypatch, tmp_path):
    d = write_run(tmp_path / "a", image_shape=(84, 84, 3))
    flags = ("--figures", "features", "--tasks", 1, "--layers", "conv3", "--channels", 5, 3, *QUICK)
    draw(monkeypatch, "--savedir", d, *flags)
    assert len(list((d / "plot").glob("features_task1_image*_samples.gif"))) == 2
    with Image.open(d / "plot/features_task1_image0_samples.gif") as gif:
        assert gif.n_frames == 4 and gif.info["duration"] == 500
        frames = [np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(gif)]
    assert (frames[0] != frames[1]).any() and (frames[0][:, :100] == frames[1][:, :100]).all()  # only samples move


def test_panels_are_the_samples_mean_and_deviation():
    rng = np.random.default_rng(0)
    clean, perturbed, noise = rng.random((5, 5)), rng.random((6, 5, 5)), rng.random((6, 5, 5))
    channel = features.Channel("conv1 ch 0", clean, perturbed, noise)
    for kind, wanted in (
        ("mean", sum(perturbed) / 6),
        ("std", np.sqrt(sum((x - sum(perturbed) / 6) ** 2 for x in perturbed) / 6)),
        ("mean noise", sum(noise) / 6),
    ):
        np.testing.assert_allclose(features.MAPS[kind](channel, 0), wanted)
    np.testing.assert_array_equal(features.MAPS["noise"](channel, 3), noise[3])


def test_a_layer_without_a_multiplied_noise_has_an_empty_panel_for_it():
    rng = np.random.default_rng(0)
    maps = {"clean": rng.random((5, 5)), "perturbed": rng.random((6, 5, 5))}
    channels = [
        features.Channel("a", **maps, noise=rng.random((6, 5, 5))),
        features.Channel("b", **maps, noise=np.empty((0, 5, 5))),
    ]
    for both in (channels, channels[::-1]):
        rows = np.reshape(features.strip(np.zeros((5, 5, 1), np.uint8), both).axes[1:], (2, -1))
        assert rows[0, -1].get_title() == "mean noise"
        for row, channel in zip(rows, both, strict=True):
            assert [bool(ax.images) for ax in row] == [True] * 7 + [len(channel.noise) > 0]
        assert len(list(features.frames(np.zeros((5, 5, 1), np.uint8), both))) == 6


def test_side_by_side_every_run_has_its_own_channel_and_the_noise_one_scale():
    """Constant noise and noise that sees the image, of two images; a run without a multiplied noise beside them."""
    rng = np.random.default_rng(0)
    pixels = [np.full((5, 5, 1), value, np.uint8) for value in (10, 200)]

    def channels(label, *noises):
        return [features.Channel(label, rng.random((5, 5)), rng.random((6, 5, 5)), noise) for noise in noises]

    runs = {
        "same": channels("conv1 ch 3", np.full((6, 5, 5), 0.5), np.full((6, 5, 5), 0.5)),
        "seeing": channels("conv1 ch 7", np.full((6, 5, 5), 0.25), np.full((6, 5, 5), 2.0)),
        "added": channels("conv1 ch 0", *2 * [np.empty((0, 5, 5))]),
    }
    fig = features.beside(pixels, runs)
    left, *right = fig.subfigs
    assert [ax.images[0].get_array()[0, 0] for ax in left.axes] == [10, 200]
    assert [part.get_suptitle() for part in right] == ["same, conv1 ch 3", "seeing, conv1 ch 7", "added, conv1 ch 0"]
    for part, own in zip(right, runs.values(), strict=True):
        rows = np.reshape(part.axes, (2, 3))
        assert [ax.get_title() for ax in rows[0]] == ["noise-free", "a sample", "mean noise"]
        brightest = {np.quantile([c.clean for c in own] + [c.perturbed[m] for c in own for m in range(6)], 0.998)}
        for row, channel in zip(rows, own, strict=True):
            np.testing.assert_array_equal(row[0].images[0].get_array(), channel.clean)
            np.testing.assert_array_equal(row[1].images[0].get_array(), channel.perturbed[0])
            np.testing.assert_allclose([ax.images[0].get_clim()[1] for ax in row[:2]], [*brightest] * 2)
            if len(channel.noise):
                np.testing.assert_array_equal(row[2].images[0].get_array(), channel.noise.mean(0))
                assert row[2].images[0].get_clim() == (0.25, 2.0)
            else:
                assert not row[2].images and not row[2].axison


def test_runs_are_side_by_side_on_the_same_images_with_the_channels_of_each(monkeypatch, tmp_path):
    drawn = []
    monkeypatch.setattr(features, "beside", lambda *args: drawn.append(args) or Figure((0.1, 0.1)))
    runs = [write_run(tmp_path / name, seed=seed) for seed, name in enumerate("abc")]
    runs.append(write_run(tmp_path / "maml", "maml"))
    flags = ("--figures", "features", "--tasks", 1, "--layers", "conv2", "conv3", *QUICK)
    draw(monkeypatch, "--savedir", *runs, *flags)
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
    draw(monkeypatch, "--savedir", runs[0], runs[3], *flags)
    assert not drawn  # one run alone has features
