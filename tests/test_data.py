"""Episodes: which images they hold, how they are gathered, and damaged datasets."""

import dataclasses
import json
import shutil
from functools import partial

import numpy as np
import pytest
import tensorflow as tf

import data
import learners
from errors import UserError
from ranges import UNIT, Range
from sources import arrays, omniglot_sets
from training.identity import episodes_digest
from training.steps import Engine


@pytest.fixture
def split():
    """Every pixel of an image tells its character and its number."""
    pixels = np.zeros((6, 9, 4, 4, 1), np.uint8)
    pixels += (10 * np.arange(6)[:, None, None, None, None] + np.arange(9)[None, :, None, None, None]).astype(np.uint8)
    return data.Split(pixels, rotations=4, scale=1 / 255)


def test_an_episode_has_distinct_classes_and_images(split):
    classes, images = data.sample(split, "train", 0, 3, tasks=50, way=5, images=7)
    assert classes.shape == (50, 5) and images.shape == (50, 5, 7)
    assert classes.max() < split.classes == 24 and images.max() < 9 and min(classes.min(), images.min()) == 0
    assert all(len(set(row)) == 5 for row in classes)
    assert all(len(set(row)) == 7 for row in images.reshape(-1, 7))


def test_episodes_depend_on_seed_stream_and_index_alone(split):
    def draw(stream="train", seed=0, index=0, **kind):
        return np.concatenate([x.ravel() for x in data.sample(split, stream, seed, index, 4, 5, 6, **kind)])

    np.testing.assert_array_equal(draw(), draw())
    kinds = [(stream, seed, index) for stream in ("train", "val", "test") for seed in (0, 1, 2) for index in (0, 1, 2)]
    assert len({draw(*kind).tobytes() for kind in kinds}) == len(kinds)
    shared, _ = data.sample(split, "train", 0, 0, 4, 5, 6, shared=True)
    assert (shared == shared[0]).all()
    apart, _ = data.sample(split, "train", 0, 0, 4, 5, 6)
    assert not (apart == apart[0]).all()


def test_classes_and_images_are_drawn_evenly(split):
    classes, images = data.sample(split, "train", 1, 0, tasks=4000, way=5, images=3)
    for drawn, kinds in ((classes, 24), (images, 9)):
        counts = np.bincount(drawn.ravel(), minlength=kinds)
        assert np.abs(counts / counts.mean() - 1).max() < 0.15


def test_images_of_unequal_classes_are_drawn_evenly_and_are_their_own():
    """Every pixel of an image tells its class and its number."""
    counts = np.array([3, 9, 5, 4])
    pixels = np.concatenate([10 * k + np.arange(n) for k, n in enumerate(counts)]).astype(np.uint8)
    split = data.Split(np.tile(pixels[:, None, None, None], (1, 4, 4, 1)), rotations=4, scale=1.0, counts=counts)
    assert split.classes == 16 and split.images_per_class.tolist() == counts.tolist()
    classes, images = data.sample(split, "train", 0, 0, tasks=4000, way=3, images=3)
    for k, count in enumerate(counts):
        drawn = images[classes // 4 == k]
        shares = np.bincount(drawn.ravel(), minlength=count) / drawn.size
        assert len(shares) == count and np.abs(shares * count - 1).max() < 0.1
        assert all(len(set(row)) == 3 for row in drawn)
    x_s, x_q = data.gather(tf.constant(split.pixels), *map(tf.constant, (classes, images)), 4, 1.0, 1, counts)
    shown = np.concatenate([x[:, :, 0, 0, 0].numpy().reshape(4000, 3, -1) for x in (x_s, x_q)], -1)
    np.testing.assert_array_equal(shown, 10 * (classes // 4)[..., None] + images)
    with pytest.raises(UserError, match="one of the train classes has 3"):
        data.check_episode(split, "train", 3, 1, 3)
    data.check_episode(split, "train", 16, 1, 2)


def test_counts_are_part_of_what_identifies_data_and_episodes():
    """The same bytes, cut into classes of other sizes."""
    pixels = np.zeros((10, 16, 16, 1), np.uint8)
    manifest = {"image_shape": [16, 16, 1], "rotations": 1, "scale": 1.0}
    digests, episodes = set(), set()
    for counts in ([2, 3, 5], [3, 2, 5]):
        entry = {"sha256": "a", "images_per_class": counts}
        digests.add(data.digest(manifest | {"splits": {"train": entry, "test": entry}}))
        split = data.Split(pixels, 1, 1.0, np.array(counts))
        learner = learners.make("protonet", image_shape=(16, 16, 1), channels=2, way=3)
        one = Engine(learner, shot=1, query=1, metabatch=1, seed=0)
        episodes.add(episodes_digest(one, split, 0))
    assert len(digests) == len(episodes) == 2


def test_equal_classes_draw_what_they_drew_before_there_were_unequal_ones(split):
    """The results that were published before are of these episodes."""
    classes, images = data.sample(split, "test", 0, 5, 1, 3, 2)
    assert classes.tolist() == [[10, 18, 1]] and images.tolist() == [[[1, 7], [1, 8], [4, 7]]]


@pytest.mark.parametrize("jit", [False, True])
def test_gather_turns_the_classes_and_orders_the_rows_by_class(jit):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (5, 6, 4, 4, 2), np.uint8)
    split = data.Split(pixels, rotations=4, scale=1 / 255)
    classes, images = data.sample(split, "train", 0, 0, tasks=3, way=4, images=5)
    classes[0] = [4, 5, 6, 7]  # the four turns of character 1
    gather = tf.function(lambda p, c, i: data.gather(p, c, i, 4, 1 / 255, shot=2), jit_compile=jit, autograph=False)
    x_s, x_q = gather(*map(tf.constant, (pixels, classes, images)))
    assert x_s.shape == (3, 8, 4, 4, 2) and x_q.shape == (3, 12, 4, 4, 2) and x_s.dtype == tf.float32
    for t in range(3):
        for k, c in enumerate(classes[t]):
            turned = np.stack([np.rot90(pixels[c // 4, i], c % 4) for i in images[t, k]]) / 255
            np.testing.assert_allclose(x_s[t, 2 * k : 2 * k + 2], turned[:2], rtol=1e-6)
            np.testing.assert_allclose(x_q[t, 3 * k : 3 * k + 3], turned[2:], rtol=1e-6)


@pytest.mark.parametrize("kind", ["equal", "unequal", "floats", "scaled bytes"])
def test_one_image_is_what_the_network_gets(kind):
    """Also where classes have unequal numbers of images, and where the array holds floats."""
    pixels = np.random.default_rng(0).integers(0, 256, (12, 4, 4, 2), np.uint8)
    counts = np.array([3, 5, 4]) if kind == "unequal" else None
    stored = pixels if counts is not None else pixels.reshape(3, 4, 4, 4, 2)
    scale, declared = {"floats": (0.5, Range(-0.5, 3)), "scaled bytes": (2.0, None)}.get(kind, (1 / 255, None))
    stored = (2 * (stored / 255 * 3.5 - 0.5)).astype(np.float32) if kind == "floats" else stored
    split = data.Split(stored, rotations=4, scale=scale, counts=counts, declared=declared)
    classes = np.array([[0, 5, 10, 11]], np.int32)
    numbers = np.array([[[1, 2], [3, 1], [0, 2], [2, 0]]], np.int32)
    x = data.gather(tf.constant(stored), *map(tf.constant, (classes, numbers)), 4, scale, 1, counts)
    for k, c in enumerate(classes[0]):
        for place, number in enumerate(numbers[0, k]):
            image = split.image(c, number)
            assert image.dtype == np.uint8 and image.shape == (4, 4, 2)
            np.testing.assert_allclose(split.range.unit(x[place][0, k]) * 255, image, atol=1e-3)


def test_the_range_of_bytes_is_known_and_that_of_floats_is_what_the_manifest_says(data_dir, tmp_path):
    floats = data.Split(np.float32([-1.0, 3.0]).reshape(1, 1, 2, 1, 1), 1, 1.0)  # an image of two pixels
    assert floats.range is None and data.Split(np.zeros(3, np.uint8), 1, 1 / 255).range == UNIT
    for known in (lambda: data.known_range(floats, "an attack"), lambda: data.check_range(floats, "test", "an attack")):
        with pytest.raises(UserError, match=r'an attack needs the range .* add "range": \[LOWEST, HIGHEST\] there'):
            known()
    for ends, inside in (((-1, 3), True), ((-1, 2.99998), True), ((-1, 2.9999), False), ((-0.9, 3), False)):
        declared = dataclasses.replace(floats, declared=Range(*ends))
        if inside:
            data.check_range(declared, "test", "an attack")
        else:
            with pytest.raises(UserError, match="test images hold numbers from -1 to 3"):
                data.check_range(declared, "test", "an attack")
    with pytest.raises(UserError, match="from nan"):
        data.check_range(data.Split(np.float32([np.nan]), 1, 1.0, declared=UNIT), "test", "an attack")
    shutil.copytree(data_dir / "glyphs", tmp_path / "glyphs")
    path = tmp_path / "glyphs/manifest.json"
    manifest, plain = json.loads(path.read_text()), data.load(tmp_path, "glyphs")
    assert "range" not in plain.facts and plain.range == UNIT
    path.write_text(json.dumps(manifest | {"range": [-1, 2]}))
    other = data.load(tmp_path, "glyphs")
    seen = {"range": [-1, 2], "brightness": data.brightness(other.splits["train"])}
    assert other.facts == plain.facts | seen and other.sha256 == plain.sha256  # the pixels are the same
    for splits in (other.splits, data.splits_of(other, "trainval")):
        assert all(split.range == (-1, 2) for split in splits.values())
    for wrong in ([1, 0], [0], "01", [0, "1"], [0, float("nan")], {}):
        path.write_text(json.dumps(manifest | {"range": wrong}))
        with pytest.raises(UserError, match=r'write "range": \[LOWEST, HIGHEST\]'):
            data.load(tmp_path, "glyphs")


def test_one_image_is_rounded():
    split = data.Split(np.full((1, 1, 4, 4, 1), 0.7 / 255, np.float32), rotations=1, scale=1.0, declared=UNIT)
    assert (split.image(0, 0) == 1).all()


def test_load_reads_what_get_data_leaves(data_dir):
    dataset = data.load(data_dir, "glyphs")
    assert dataset.image_shape == (28, 28, 1) and set(dataset.splits) == {"train", "val", "test"}
    train, both = dataset.splits["train"], data.splits_of(dataset, "trainval")["train"]
    assert train.pixels.dtype == np.uint8 and train.classes == 4 * len(train.pixels)
    assert both.classes == train.classes + dataset.splits["val"].classes
    data.check_episode(train, "train", 5, 5, 15)


@pytest.mark.parametrize("counts", [([4] * 3, [4] * 2), ([4] * 3, [5] * 2), ([4, 6, 5], [5] * 2), ([4] * 3, [3, 6])])
def test_trainval_keeps_each_class_its_images(counts):
    """Also where the two splits, or classes of one, differ in their numbers. A shade tells class and number."""
    splits, first = {}, 0
    for name, own in zip(("train", "val"), counts, strict=True):
        shades = np.concatenate([10 * (first + k) + np.arange(n) for k, n in enumerate(own)]).astype(np.uint8)
        pixels, first = np.tile(shades[:, None, None, None], (1, 4, 4, 1)), first + len(own)
        pixels = pixels.reshape(len(own), -1, 4, 4, 1) if len(set(own)) == 1 else pixels
        splits[name] = data.Split(pixels, 4, 0.5, None if pixels.ndim == 5 else np.array(own))
    dataset = data.Dataset("it", (4, 4, 1), splits | {"test": splits["train"]}, "")
    both = data.splits_of(dataset, "trainval")["train"]
    assert both.classes == 20 and both.images_per_class.tolist() == [n for own in counts for n in own]
    assert (both.counts is None) == (len({n for own in counts for n in own}) == 1)
    classes, images = data.sample(both, "train", 0, 0, tasks=200, way=5, images=3)
    assert set((classes // 4).ravel()) == set(range(5))
    gathered = data.gather(*map(tf.constant, (both.pixels, classes, images)), 4, both.scale, 1, both.counts)
    shown = np.concatenate([x[:, :, 0, 0, 0].numpy().reshape(200, 5, -1) for x in gathered], -1)
    np.testing.assert_array_equal(shown, (10 * (classes // 4)[..., None] + images) / 2)


def edited(dataset, entry, value):
    """Set an entry of the dataset's manifest, or one of its first split."""
    path = dataset / "manifest.json"
    manifest = json.loads(path.read_text())
    (manifest if entry in manifest else manifest["splits"]["train"])[entry] = value
    path.write_text(json.dumps(manifest))


WRONG_ENTRIES = {
    "image_shape": (None, [28, 28], [28, 28, "1"], [0, 28, 1], [14, 56, 1], [28]),
    "scale": ("0.0039", 0, float("inf"), None),
    "rotations": (0, 1.5, 5), "source": (None, {}, {"given": "", "files": [1]}), "prepare": ([], {"size": "28"}),
    "splits": ([], {}, {"train": None}), "base_classes": ("100",), "images_per_class": (None, [20, 20], ["20"] * 100),
    "names": (3, [1] * 100, ["a"]), "sha256": (None,), "file": (None,),
}  # fmt: skip
WRONG = [(entry, value) for entry, values in WRONG_ENTRIES.items() for value in values]


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda d: (d / "manifest.json").unlink(), "there is no dataset"),
        (lambda d: (d / "manifest.json").write_text("{"), "is damaged"),
        (lambda d: (d / "manifest.json").write_text("[]"), "is damaged"),
        (lambda d: (d / "manifest.json").write_text("[" * 200_000), "is damaged"),
        *((partial(edited, entry=entry, value=value), "is damaged") for entry, value in WRONG),
        (lambda d: (d / "train.npy").unlink(), "is missing"),
        (lambda d: (d / "train.npy").write_bytes((d / "train.npy").read_bytes()[:-1]), "wrong size"),
    ],
)
def test_a_damaged_dataset_is_a_sentence_that_says_what_to_do(data_dir, tmp_path, damage, words):
    shutil.copytree(data_dir / "glyphs", tmp_path / "glyphs")
    damage(tmp_path / "glyphs")
    with pytest.raises(UserError, match=words) as fault:
        data.load(tmp_path, "glyphs")
    assert f"python get_data.py --dataset glyphs --data_dir {tmp_path}" in str(fault.value)


def test_a_wrong_shape_is_refused(data_dir, tmp_path):
    shutil.copytree(data_dir / "glyphs", tmp_path / "glyphs")
    path = tmp_path / "glyphs" / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["image_shape"] = [14, 14, 4]
    path.write_text(json.dumps(manifest))
    with pytest.raises(UserError, match="has the shape"):
        data.load(tmp_path, "glyphs")


def test_a_wrong_number_of_images_of_unequal_classes_is_refused(tmp_path):
    """Where classes differ in their images, the array has as many rows as there are images."""
    with arrays.making(tmp_path / "mine") as folder:
        for split in ("train", "test"):
            arrays.save(folder / f"{split}.npy", np.zeros((7, 16, 16, 1), np.uint8))
        names = {split: ["a", "b"] for split in ("train", "test")}
        source = {"given": "a test", "files": []}
        arrays.write_manifest(folder, "mine", names, source, counts={split: [3, 4] for split in names})
    assert data.load(tmp_path, "mine").splits["train"].images_per_class.tolist() == [3, 4]
    path = tmp_path / "mine" / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["splits"]["train"]["images_per_class"] = [3, 5]
    path.write_text(json.dumps(manifest))
    with pytest.raises(UserError, match="has the shape"):
        data.load(tmp_path, "mine")


def test_a_run_knows_how_its_pictures_were_prepared_where_that_is_known(split):
    prepare = {"size": 28, "channels": 1, "invert": True}
    known = {"data_sha256": "abc", "brightness": data.brightness(split)}
    assert data.Dataset("it", (4, 4, 1), {"train": split}, "abc", prepare).facts == known | {"prepare": prepare}
    assert data.Dataset("it", (4, 4, 1), {"train": split}, "abc").facts == known


@pytest.mark.parametrize("unequal", [False, True])
def test_brightness_is_of_the_images_as_the_network_gets_them(unequal):
    levels = np.repeat([0, 51, 102, 255], [1, 3, 2, 2]).astype(np.uint8)
    pixels, counts = np.broadcast_to(levels[:, None, None, None], (8, 4, 4, 1)), np.array([1, 3, 2, 2])
    split = data.Split(pixels, 4, 1 / 255, counts) if unequal else data.Split(pixels.reshape(4, 2, 4, 4, 1), 4, 1 / 255)
    expected = [round(float(f(levels / 255)), 4) for f in (np.mean, np.std)]
    assert data.brightness(split) == expected
    wide = data.Split(split.pixels, 4, 4 / 255, split.counts, data.Range(-4, 4))
    halved = [0.5 + expected[0] / 2, expected[1] / 2]
    assert data.brightness(wide) == pytest.approx(halved, abs=0.5 / 255)  # an image for people has 256 levels


def test_trainval_leaves_the_test_classes_alone(split):
    split, val, test = (
        data.Split(split.pixels[:n], 4, split.scale, names=tuple(f"{n}/{i}" for i in range(n))) for n in (6, 2, 3)
    )
    dataset = data.Dataset("it", (4, 4, 1), {"train": split, "val": val, "test": test}, "")
    assert data.splits_of(dataset, "train") == dataset.splits
    both = data.splits_of(dataset, "trainval")
    assert both.keys() == {"train", "test"} and both["test"] is test and both["train"].classes == 4 * (6 + 2)
    assert both["train"].names == (*split.names, *val.names)


def test_impossible_episodes_are_refused(split):
    with pytest.raises(UserError, match="--way 25 is more than the 24 train classes"):
        data.check_episode(split, "train", 25, 1, 1)
    with pytest.raises(UserError, match="--shot 5 and --query 5 need 10 images"):
        data.check_episode(split, "train", 5, 5, 5)


def test_background_is_omniglots_own_two_sets_upright():
    rng = np.random.default_rng(0)
    sizes = {"train": 1100, "val": 100, "test": 423}
    evaluation = [f"{a}/character{n:02d}" for a in sorted(omniglot_sets.EVALUATION) for n in range(33)][:659]
    names = evaluation + [f"Alphabet{n // 40}/character{n % 40:02d}" for n in range(964)]
    pixels, order = np.arange(1623, dtype=np.float32).reshape(-1, 1, 1, 1, 1), rng.permutation(1623)
    splits, at = {}, 0
    for split, size in sizes.items():
        rows, at = order[at : at + size], at + size
        splits[split] = data.Split(pixels[rows], 4, 0.5, names=tuple(names[i] for i in rows))
    found = data.regroup_by_alphabet(splits, "it")
    assert {k: (v.classes, v.rotations, v.scale) for k, v in found.items()} == {
        "train": (964, 1, 0.5),
        "test": (659, 1, 0.5),
    }
    for split, wanted in (("test", evaluation), ("train", names[659:])):
        assert found[split].names == tuple(sorted(wanted))
        assert found[split].pixels.ravel().tolist() == [names.index(name) for name in found[split].names]
    first, *others = splits["train"].names
    other = "Tibetan/other" if first.startswith("Alphabet") else "Alphabet0/other"
    splits["train"] = dataclasses.replace(splits["train"], names=(other, *others))
    with pytest.raises(UserError, match="it was not made from all originals of Omniglot: --split background"):
        data.regroup_by_alphabet(splits, "it")
