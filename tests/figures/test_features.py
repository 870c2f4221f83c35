"""Stochastic features: every panel shows the numbers that its title says."""

import numpy as np
from PIL import Image, ImageSequence

from figures import features
from left_runs import write_run
from plotting import QUICK, draw


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
