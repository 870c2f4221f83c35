"""The plane of the boundary agrees with the head."""

import numpy as np
import pytest

from figures import geometry
from left_runs import SIZE, STEPS, fake_export


def test_the_boundary_is_where_the_two_logits_are_equal():
    export = fake_export(way=3, shot=2)
    for pair in ((0, 1), (2, 0)):
        scene = geometry.scene(export, 1, pair, seed=0)
        for step in range(STEPS + 1):
            w, b = export["head_w"][1, step], export["head_b"][1, step]
            features = export["query_features"][1, step][np.isin(export["query_labels"], pair)]
            # walk from a feature to the boundary along axis 1: there the logits are equal
            axis = w[:, pair[0]] - w[:, pair[1]]
            axis = axis / np.sqrt((axis**2).sum())
            x = scene.points["query"][step, :, 0]
            there = features + (scene.boundary[step] - x)[:, None] * axis
            logits = (there @ w + b)[:, list(pair)]
            np.testing.assert_allclose(logits[:, 0], logits[:, 1], atol=1e-9)
            # and a point is on the side of the class that the head prefers
            logits = (features @ w + b)[:, list(pair)]
            np.testing.assert_array_equal(x > scene.boundary[step], logits[:, 0] > logits[:, 1])
            owner = (export["query_labels"][np.isin(export["query_labels"], pair)] == pair[1]).astype(int)
            assert scene.accuracy[step] == (logits.argmax(1) == owner).mean()


def test_copies_belong_to_the_class_of_their_image():
    export = fake_export(shot=2, copies=3)
    export["perturbed_features"] = np.repeat(export["support_features"][:, :, None], 3, 2)
    scene = geometry.scene(export, 0, (0, 1), seed=0)
    np.testing.assert_allclose(scene.points["copies"][..., 0], np.tile(scene.points["support"][..., 0], 3))
    np.testing.assert_array_equal(scene.side["copies"], np.tile(scene.side["support"], 3))


def test_tsne_is_the_same_from_the_same_seed_and_keeps_neighbours():
    rng = np.random.default_rng(1)
    groups = rng.normal(scale=20, size=(6, 1, SIZE)) + rng.normal(size=(6, 10, SIZE))
    rest = groups.reshape(3, 20, SIZE)
    one = geometry.embed(rest, 0)
    np.testing.assert_array_equal(one, geometry.embed(rest, 0))
    assert (one != geometry.embed(rest, 1)).any()
    assert one.shape == (3, 20) and abs(one).max() == pytest.approx(1)
    spread = one.reshape(6, 10)
    assert np.ptp(spread, axis=1).max() < np.ptp(one) / 3
    assert not geometry.embed(np.zeros((2, 5, SIZE)), 0).any()  # nothing is left to embed
    assert np.isfinite(geometry.embed(rng.normal(size=(1, 4, SIZE)), 0)).all()  # the fewest points there are


def test_a_head_as_large_as_float32_holds_is_projected():
    export = fake_export()
    large = {name: (export[name] * 1e30).astype(np.float32) for name in ("head_w", "head_b")}
    small, scene = (geometry.scene(export | head, 0, (0, 1), 0) for head in ({}, large))
    np.testing.assert_allclose(scene.boundary, small.boundary, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(scene.points["query"][..., 0], small.points["query"][..., 0], rtol=1e-4, atol=1e-4)
