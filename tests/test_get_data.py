"""get_data.py as a user meets it: what it makes, and how it ends when input, network or disk fail."""

import errno
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import get_data
from arrays import making, save
from download import download
from errors import UserError, run
from glyphs import draw_glyphs
from misbehaving_server import serve

PROGRAM = Path(__file__).parents[1] / "get_data.py"
REAL = Path(__file__).parents[2] / "shared" / "data"


def process(*args, **kwargs):
    """The program, as a process of its own."""
    return subprocess.run(
        [sys.executable, PROGRAM, *map(str, args)], capture_output=True, text=True, timeout=60, check=False, **kwargs
    )


def command(*args):
    """The same in this process, which saves its start; an exception that would be a traceback passes through."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as end:
        run(lambda: get_data.main([str(arg) for arg in args]))
    return subprocess.CompletedProcess(args, end.value.code or 0, out.getvalue(), err.getvalue())


def refused(result, *words):
    """Exit code 2, and one sentence on standard error that holds these words."""
    assert result.returncode == 2, result
    assert result.stderr.count("\n") == 1 and "Traceback" not in result.stderr, result.stderr
    for word in words:
        assert word in result.stderr
    return True


def npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def leftovers(folder):
    """What a later run could take for a dataset, or a half of one."""
    return [path for path in folder.rglob("*") if path.suffix == ".npy" or path.name == "manifest.json"]


# --- downloading ---

BODY = npy(np.random.RandomState(0).randint(0, 256, (1000, 500), np.uint8))


@pytest.mark.parametrize(
    ("manners", "ranges"),
    [
        (["well"], [False]),
        (["no length"], [False]),
        (["no ETag"], [False]),
        (["drops", "drops", "well"], [False, True, True]),
        (["drops", "ignores Range"], [False, True]),
        (["drops", "500", "429", "503", "well"], [False, True, True, True, True]),
        (["stalls", "well"], [False, True]),
        (["drops", "416", "well"], [False, True, False]),
    ],
)
def test_a_download_survives(tmp_path, manners, ranges):
    with serve(BODY, *manners) as server:
        download(f"{server.url}/x.npy", tmp_path / "x.npy", timeout=0.5, wait=0.01)
    assert (tmp_path / "x.npy").read_bytes() == BODY
    assert not (tmp_path / "x.npy.part").exists()
    assert [bool(asked) for asked in server.asked] == ranges


@pytest.mark.parametrize("second", ["well", "ignores If-Range"])
def test_two_versions_of_a_file_are_never_joined(tmp_path, second):
    with serve(BODY, "drops, then changes", second) as server:
        download(f"{server.url}/x.npy", tmp_path / "x.npy", wait=0.01)
        assert (tmp_path / "x.npy").read_bytes() == server.body != BODY
    assert server.asked[1]


@pytest.mark.parametrize(
    ("manner", "words"),
    [
        ("404", "404"),
        ("403", "403"),
        ("html", "web page"),
        ("500", "500"),
        ("429", "429"),
        ("stalls", "nothing arrived for 0.3 seconds"),
        ("drops and ignores Range", "of 500128 bytes"),
        ("claims more", "of 500228 bytes"),
    ],
)
def test_a_download_gives_up_with_a_sentence(tmp_path, manner, words):
    with serve(BODY, manner) as server, pytest.raises(UserError, match=words):
        download(f"{server.url}/x.npy", tmp_path / "x.npy", retries=2, timeout=0.3, wait=0.01)
    assert not (tmp_path / "x.npy").exists()


def test_a_later_run_goes_on_and_a_third_asks_nothing(tmp_path):
    path = tmp_path / "x.npy"
    with serve(BODY, "drops", "well") as server:
        url = f"{server.url}/x.npy"
        with pytest.raises(UserError, match="goes on where"):
            download(url, path, retries=0)
        begun = (tmp_path / "x.npy.part").stat().st_size
        assert 0 < begun < len(BODY)
        download(url, path)
        download(url, path)
    assert path.read_bytes() == BODY
    assert server.asked == [None, f"bytes={begun}-"]


def test_another_address_starts_afresh(tmp_path):
    with serve(BODY, "drops", "well") as server:
        with pytest.raises(UserError):
            download(f"{server.url}/x.npy", tmp_path / "x.npy", retries=0)
        download(f"{server.url}/y.npy", tmp_path / "x.npy")
    assert server.asked == [None, None]


AUTHORS = {"train": (5, 4, 6, 6, 3), "test": (3, 4, 6, 6, 3)}


def authors_arrays(kind=np.float64, scale=1.0):
    random = np.random.RandomState(0)
    return {split: (random.randint(0, 256, (*shape[:2], 108)) * scale).astype(kind) for split, shape in AUTHORS.items()}


@pytest.mark.parametrize(
    ("kind", "scale", "stored"),
    [
        (np.uint8, 1, np.uint8),
        (np.float64, 1, np.uint8),
        (np.float32, 1 / 255, np.uint8),
        (np.float32, 1.37, np.float32),
        (np.int64, -1, np.float32),
    ],
)
def test_the_authors_arrays(tmp_path, kind, scale, stored):
    arrays = authors_arrays(kind, scale)
    sources = {split: tmp_path / f"from_{split}.npy" for split in arrays}
    for split, path in sources.items():
        np.save(path, arrays[split].reshape(-1, 108) if split == "test" else arrays[split])
    names, read_scale = get_data.write_authors(tmp_path, sources, AUTHORS)
    for split, shape in AUTHORS.items():
        made = np.load(tmp_path / f"{split}.npy")
        assert made.shape == shape and made.dtype == stored and len(names[split]) == shape[0]
        pixels = arrays[split].reshape(shape) / (255 if stored == np.uint8 and scale == 1 else 1)
        np.testing.assert_allclose(made * read_scale, pixels, rtol=1e-6, atol=1e-6)


def test_mimgnet_from_a_mirror(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(get_data, "MIMGNET_AUTHORS", AUTHORS)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    train, test = map(npy, authors_arrays().values())
    size = AUTHORS["train"][0]
    with serve(train, "drops", "well", "404") as server:
        args = ["--dataset", "mimgnet", "--data_dir", str(tmp_path), "--mirror", server.url + "/"]
        with pytest.raises(UserError, match=r"test\.npy.*404"):
            get_data.main(args)
        assert not (tmp_path / "mimgnet").exists()
        server.body, server.manners = test, ["well"]
        get_data.main(args)
        assert len(server.asked) == 4  # the whole train.npy was not asked for again
    assert "no validation classes" in capsys.readouterr().out
    manifest = json.loads((tmp_path / "mimgnet" / "manifest.json").read_text())
    assert manifest["source"]["given"] == server.url + "/" and len(manifest["source"]["files"]) == 2
    assert list(manifest["splits"]) == ["train", "test"] and manifest["splits"]["train"]["base_classes"] == size
    assert manifest["rotations"] == 1 and manifest["split_seed"] is None and manifest["image_shape"] == [6, 6, 3]
    assert sorted(os.listdir(tmp_path / "mimgnet")) == ["manifest.json", "test.npy", "train.npy"]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (npy(np.zeros((600, 64, 3))), "shape"),
        (npy(np.zeros((4, 5, 108))), "shape"),
        (npy(np.full((5, 4, 108), np.nan)), "not finite"),
        (npy(np.full((5, 4, 108), "x")), "not numbers"),
        (npy(np.zeros((5, 4, 108)))[:-9], "cut short"),
        (npy(np.zeros((5, 4, 108)))[:40], "cut short"),
        (b"", r"not an \.npy"),
        (b"PK\x03\x04 a zip", r"not an \.npy"),
        (b"\n<html>", "web page"),
    ],
)
def test_the_authors_arrays_refused(tmp_path, data, words):
    np.save(tmp_path / "test.npy", authors_arrays()["test"])
    (tmp_path / "train.npy").write_bytes(data)
    sources = {split: tmp_path / f"{split}.npy" for split in AUTHORS}
    (tmp_path / "out").mkdir()
    with pytest.raises(UserError, match=words):
        get_data.write_authors(tmp_path / "out", sources, AUTHORS)


def test_the_command_line_on_a_bad_network(tmp_path):
    args = ["--dataset", "mimgnet", "--data_dir", tmp_path, "--retries", 0, "--timeout", 1, "--mirror"]
    refused(process(*args, "http://127.0.0.1:9"), "connection refused", "--source", "--mirror")
    refused(command(*args, "nonsense"), "check the address")
    with serve(BODY, "404", "html", "stalls", "drops") as server:
        refused(command(*args, server.url), "404")
        refused(command(*args, server.url), "web page")
        refused(command(*args, server.url), "nothing arrived for 1 seconds")
        refused(command(*args, server.url), "bytes")
    assert not leftovers(tmp_path)


@pytest.mark.parametrize(("sign", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)])
def test_stopped_in_the_middle(tmp_path, sign, code):
    with serve(BODY, "stalls", "well", "404") as server:
        args = ["--dataset", "mimgnet", "--data_dir", tmp_path, "--mirror", server.url, "--retries", "0"]
        heed = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}  # a background job ignores Ctrl-C
        program = subprocess.Popen([sys.executable, PROGRAM, *map(str, args)], stderr=subprocess.PIPE, **heed)
        part = tmp_path / "downloads" / "mimgnet" / "train.npy.part"
        while not (part.is_file() and part.stat().st_size):
            assert program.poll() is None
            time.sleep(0.01)
        program.send_signal(sign)
        _, said = program.communicate(timeout=20)
        assert program.returncode == code and b"Traceback" not in said
        assert not leftovers(tmp_path)
        refused(command(*args), "404")  # the rest of train.npy came, test.npy is not there
        assert server.asked[1].startswith("bytes=")
    assert (tmp_path / "downloads" / "mimgnet" / "train.npy").read_bytes() == BODY


# --- Omniglot ---

PARTS = {"images_background": 3, "images_evaluation": 2}
SPLITS = {"train": 3, "val": 1, "test": 1}


def png(number):
    ink = np.random.RandomState(number).random_sample((105, 105)) < 0.1
    file = io.BytesIO()
    Image.fromarray(~ink).save(file, "png")
    return file.getvalue()


def fake_omniglot(drawings=2):
    """name -> PNG, of five characters in three alphabets."""
    characters = ["images_background/Greek/character10", "images_background/Greek/character09"]
    characters += ["images_background/Arcadian/character01"]
    characters += ["images_evaluation/Zulu/character01", "images_evaluation/Zulu/character02"]
    return {
        f"{character}/{c:04d}_{d + 1:02d}.png": png(100 * c + d)
        for c, character in enumerate(characters)
        for d in range(drawings)
    }


def lay(folder, files, zipped):
    folder.mkdir(parents=True)
    for name, data in files.items():
        if zipped:
            with zipfile.ZipFile(folder / f"{name.split('/')[0]}.zip", "a") as archive:
                archive.writestr(name, data)
        else:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)
    return folder


def test_omniglot_is_the_same_from_zips_folders_and_tfds(tmp_path):
    files = fake_omniglot()
    lay(tmp_path / "zips", files, True)
    lay(tmp_path / "folders", files, False)
    alphabets = ["Arcadian", "Greek", "Zulu"]
    examples = []
    for name, data in reversed(files.items()):  # in another order than the archives'
        _, alphabet, character, _ = name.split("/")
        grey = np.asarray(Image.open(io.BytesIO(data)).convert("L"))
        image = np.repeat(grey[:, :, None], 3, axis=2)
        number = int(character.removeprefix("character")) - 1
        examples.append({"image": image, "alphabet": alphabets.index(alphabet), "alphabet_char_id": number})
    found = {"tfds": get_data.read_omniglot_tfds(examples, alphabets.__getitem__, 28)}
    for source in ("zips", "zips/images_evaluation.zip", "folders", "folders/images_background"):
        found[source], _ = get_data.read_omniglot(tmp_path / source, 28, PARTS, 2)
    for route, drawings in found.items():
        (tmp_path / "out" / route).mkdir(parents=True)
        names = get_data.write_omniglot(tmp_path / "out" / route, drawings, 3, SPLITS)
        assert sorted(name for split in names.values() for name in split) == [
            "Arcadian/character01",
            "Greek/character09",
            "Greek/character10",
            "Zulu/character01",
            "Zulu/character02",
        ]
        for split, count in SPLITS.items():
            made = np.load(tmp_path / "out" / route / f"{split}.npy")
            assert made.shape == (count, 2, 28, 28, 1) and made.dtype == np.uint8
            np.testing.assert_array_equal(made, np.load(tmp_path / "out" / "tfds" / f"{split}.npy"))
    assert made.mean() < 100  # ink is 255 and rare, paper 0
    other = get_data.write_omniglot(tmp_path / "out", found["zips"], 4, SPLITS)
    assert other != names


def test_omniglot_refused(tmp_path):
    files = fake_omniglot()
    background = [name for name in files if "background" in name]

    def fault(change, zipped=True, source="."):
        changed = dict(files)
        change(changed)
        shutil.rmtree(tmp_path / "o", ignore_errors=True)
        folder = lay(tmp_path / "o", changed, zipped)
        with pytest.raises(UserError) as caught:
            get_data.read_omniglot(folder / source, 28, PARTS, 2)
        return str(caught.value)

    assert "1 drawings, not 2" in fault(lambda f: f.pop(background[0]))
    assert "2 characters, not 3" in fault(lambda f: [f.pop(name) for name in background[:2]])
    for zipped in (True, False):
        assert "damaged" in fault(lambda f: f.update({background[0]: files[background[0]][:-60]}), zipped)
    assert "damaged" in fault(lambda f: f.update({background[0]: b"no image"}))
    small = io.BytesIO()
    Image.new("1", (28, 28)).save(small, "png")
    assert "105 x 105" in fault(lambda f: f.update({background[0]: small.getvalue()}))
    assert "neither" in fault(lambda f: [f.pop(name) for name in background])
    archive = tmp_path / "o" / "images_evaluation.zip"
    data = archive.read_bytes()
    lay(tmp_path / "t", files, True)
    for cut in (data[:-30], data[:50], b"", data[:300] + bytes(50) + data[350:]):
        (tmp_path / "t" / "images_evaluation.zip").write_bytes(cut)
        with pytest.raises(UserError, match="not a whole zip"):
            get_data.read_omniglot(tmp_path / "t", 28, PARTS, 2)


STANDS_FOR_TFDS = """
import types, numpy
def disable_progress_bar(): pass
def as_numpy(examples): return examples
class builder:
    def __init__(self, name):
        self.data_dir, self.url_infos = {folder!r}, {{"http://127.0.0.1:9/x.zip": None}}
        features = {{"alphabet": types.SimpleNamespace(int2str=str)}}
        self.info = types.SimpleNamespace(features=features, full_name=name)
    def download_and_prepare(self): print("download_and_prepare")
    def as_dataset(self, split):
        image = numpy.zeros((105, 105, 1), numpy.uint8)
        return [{{"image": image, "alphabet": 0, "alphabet_char_id": 0}}]
"""


def test_tfds_that_fails_is_one_sentence(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}

    def omniglot(tfds):
        (tmp_path / "tensorflow_datasets.py").write_text(tfds)
        result = process("--dataset", "omniglot", "--data_dir", tmp_path / "data", env=environment)
        assert not leftovers(tmp_path / "data")
        return result

    refused(omniglot("raise ConnectionError('no\\nnetwork')"), "ConnectionError", "--source")
    offline = omniglot(STANDS_FOR_TFDS.format(folder=str(tmp_path)))
    refused(offline, "connection refused", "--source")
    assert "download_and_prepare" not in offline.stdout  # which would try again for minutes
    (tmp_path / "dataset_info.json").write_text("{}")  # prepared by an earlier run: needs no network
    prepared = omniglot(STANDS_FOR_TFDS.format(folder=str(tmp_path)))
    refused(prepared, "holds 1 characters, not 1623")
    assert "download_and_prepare" in prepared.stdout


@pytest.mark.skipif(not (REAL / "images_background.zip").exists(), reason="needs the real Omniglot")
def test_the_real_omniglot(tmp_path):
    assert command("--dataset", "omniglot", "--source", REAL, "--data_dir", tmp_path).returncode == 0
    manifest = json.loads((tmp_path / "omniglot" / "manifest.json").read_text())
    splits = manifest["splits"]
    assert {name: split["classes"] for name, split in splits.items()} == {
        "train": 4400,
        "val": 400,
        "test": 1692,
    }
    assert len({name for split in splits.values() for name in split["names"]}) == 1623
    assert manifest["image_shape"] == [28, 28, 1] and manifest["scale"] == 1 / 255 and manifest["rotations"] == 4
    train = np.load(tmp_path / "omniglot" / "train.npy")
    assert train.shape == (1100, 20, 28, 28, 1) and 5 < train.mean() < 40 and train.max() == 255


# --- miniImageNet ---

CLASSES = {"train": 3, "val": 2, "test": 2}


def fake_mimgnet(count=2):
    """name -> bytes of tables and images: `count` images a class, one of them of another size."""
    files = {}
    for split, classes in CLASSES.items():
        rows = [(f"{split}{c}_{i}.jpg", f"n{split}{c}") for c in range(classes) for i in range(count)]
        for name, _ in rows:
            side = 12 if name == "train0_0.jpg" else 8
            image = io.BytesIO()
            colour = np.random.RandomState(len(files)).randint(0, 256, 3)
            Image.new("RGB", (side, side), tuple(colour.tolist())).save(image, "jpeg")
            files[f"mini/images/{name}"] = image.getvalue()
        files[f"mini/{split}.csv"] = "\n".join(map(",".join, [("filename", "label"), *rows])).encode()
    return files


def pack(path, files):
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def test_mimgnet_is_the_same_from_a_folder_and_archives(tmp_path):
    files = fake_mimgnet()
    lay(tmp_path / "folder", files, False)
    sources = [
        tmp_path / "folder" / "mini",
        pack(tmp_path / "x.tar", files),
        pack(tmp_path / "x.tar.gz", files),
    ]
    for number, source in enumerate(sources):
        out = tmp_path / str(number)
        out.mkdir()
        names = get_data.write_mimgnet(out, source, CLASSES, side=8)
        assert names["train"] == ["ntrain0", "ntrain1", "ntrain2"]
        for split, classes in CLASSES.items():
            made = np.load(out / f"{split}.npy")
            assert made.shape == (classes, 2, 8, 8, 3) and made.dtype == np.uint8
            np.testing.assert_array_equal(made, np.load(tmp_path / "0" / f"{split}.npy"))
            for c in range(classes):
                for i in range(2):
                    original = Image.open(io.BytesIO(files[f"mini/images/{split}{c}_{i}.jpg"]))
                    assert abs(np.asarray(original)[0, 0].astype(int) - made[c, i, 4, 4]).max() <= 2


def test_mimgnet_refused(tmp_path):
    files = fake_mimgnet()
    table = files["mini/train.csv"]

    def fault(**changes):
        changed = {**files, **{f"mini/{name}": data for name, data in changes.items()}}
        changed = {name: data for name, data in changed.items() if data is not None}
        with pytest.raises(UserError) as caught:
            get_data.write_mimgnet(tmp_path, pack(tmp_path / "x.tar", changed), CLASSES, side=8)
        return str(caught.value)

    assert "no val.csv" in fault(**{"val.csv": None})
    assert "2 classes, not 3" in fault(**{"train.csv": b"\n".join(table.splitlines()[:5])})
    assert "1 to 2 images" in fault(**{"train.csv": b"\n".join(table.splitlines()[:6])})
    assert "a second time" in fault(**{"train.csv": table + b"\n" + table.splitlines()[1]})
    assert "filename,label" in fault(**{"train.csv": b"\x89PNG"})
    assert "filename,label" in fault(**{"train.csv": b""})
    lost = fault(**{"images/train1_0.jpg": None, "images/test0_0.jpg": None})
    assert "lacks 2 of the 14" in lost and "train1_0.jpg" in lost
    assert "images/val0_0.jpg" in fault(**{"images/val0_0.jpg": files["mini/images/val0_0.jpg"][:-200]})
    for name in ("x.tar", "x.tar.gz"):
        path = pack(tmp_path / name, files)
        data = path.read_bytes()
        for cut in (len(data) // 2, 700, 10, 0):
            path.write_bytes(data[:cut])
            with pytest.raises(UserError, match=r"not a whole|lacks|no test"):
                get_data.write_mimgnet(tmp_path, path, CLASSES, side=8)


def test_refusals_on_the_command_line(tmp_path):
    out = ["--data_dir", tmp_path / "data"]
    for parts in (fake_omniglot(), fake_mimgnet()):
        lay(tmp_path / f"in{len(parts)}", parts, False)
    refused(command("--dataset", "omniglot", "--source", tmp_path / "in10", *out), "3 characters, not 964")
    refused(command("--dataset", "mimgnet", "--source", tmp_path / "in17" / "mini", *out), "2 classes, not 20")
    refused(
        command("--dataset", "mimgnet", "--source", tmp_path / "in10", *out),
        "neither train.csv nor train.npy",
    )
    refused(command("--dataset", "omniglot", "--source", tmp_path / "in17", *out), "neither images_background.zip")
    refused(command("--dataset", "omniglot", "--source", tmp_path / "nowhere", *out), "there is no")
    refused(process("--dataset", "omnigolt", *out), "omnigolt", "--help")
    refused(command("--dataset", "glyphs", "--sed", 3, *out), "--sed")
    refused(command("--dataset", "glyphs", "--size", 28, *out), "--size")
    refused(command("--dataset", "glyphs", "--verify", *out), "there is no")
    assert not leftovers(tmp_path / "data")


# --- glyphs, and what all datasets have in common ---


@pytest.fixture(scope="module")
def glyphs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("glyphs")
    assert process("--dataset", "glyphs", "--data_dir", folder).returncode == 0
    return folder / "glyphs"


def test_glyphs(glyphs):
    manifest = json.loads((glyphs / "manifest.json").read_text())
    assert manifest["split_seed"] == 0 and manifest["rotations"] == 4 and manifest["scale"] == 1 / 255
    arrays = [np.load(glyphs / f"{split}.npy") for split in ("train", "val", "test")]
    assert [len(array) for array in arrays] == [100, 20, 30]
    np.testing.assert_array_equal(np.concatenate(arrays)[:10], draw_glyphs(10, 20, seed=0))
    assert (draw_glyphs(10, 20, seed=1) != draw_glyphs(10, 20, seed=0)).any()
    assert np.concatenate(arrays).mean(axis=(2, 3, 4)).min() > 2  # no drawing is all but empty


def test_glyphs_are_neither_hopeless_nor_easy(glyphs):
    """5-way 1-shot, nearest neighbour in pixels: well above chance (20 %), well below what can be learnt."""
    images = np.load(glyphs / "test.npy")
    images = np.concatenate([np.rot90(images, r, (2, 3)) for r in range(4)]).reshape(120, 20, -1) / 255.0
    random, right = np.random.RandomState(0), []
    for _ in range(1000):
        chosen = images[random.choice(120, 5, False)][:, random.choice(20, 4, False)]
        distance = ((chosen[:, 1:, None] - chosen[:, 0]) ** 2).sum(axis=-1)
        right.append((distance.argmin(axis=-1) == np.arange(5)[:, None]).mean())
    assert 0.6 < np.mean(right) < 0.75


def test_a_complete_dataset_is_left_alone(glyphs):
    before = (glyphs / "manifest.json").stat().st_mtime_ns
    again = command("--dataset", "glyphs", "--data_dir", glyphs.parent)
    assert again.returncode == 0 and "is complete" in again.stdout
    assert (glyphs / "manifest.json").stat().st_mtime_ns == before
    assert command("--dataset", "glyphs", "--data_dir", glyphs.parent, "--verify").returncode == 0
    refused(command("--dataset", "glyphs", "--data_dir", glyphs.parent, "--seed", 1), "--seed 0, not 1", "--force")


def test_damage_is_seen_and_mended(glyphs, tmp_path):
    folder = shutil.copytree(glyphs, tmp_path / "glyphs")
    args = ["--dataset", "glyphs", "--data_dir", tmp_path]
    with open(folder / "val.npy", "r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\x07")
    assert command(*args).returncode == 0  # a look at the sizes only
    refused(command(*args, "--verify"), "val.npy", "checksum")
    (folder / "val.npy").write_bytes(b"")
    refused(command(*args), "val.npy", "--force")
    (folder / "manifest.json").write_text("{}")
    refused(command(*args), "manifest.json", "--force")
    assert command(*args, "--force").returncode == 0
    assert (folder / "val.npy").read_bytes() == (glyphs / "val.npy").read_bytes()


def test_files_of_others_are_never_replaced(tmp_path):
    (tmp_path / "glyphs").mkdir()
    (tmp_path / "glyphs" / "train.npy").write_bytes(b"precious")
    refused(command("--dataset", "glyphs", "--data_dir", tmp_path, "--force"), "did not make")
    assert (tmp_path / "glyphs" / "train.npy").read_bytes() == b"precious"


def test_killed_while_it_writes(tmp_path):
    """A process that dies between the arrays and the manifest leaves nothing in place or in the way."""
    script = (
        "import os, sys, get_data\n"
        "get_data.GLYPHS_SPLITS = {'train': 2, 'test': 1}\n"
        "if sys.argv[1:]: get_data.write_manifest = lambda *_, **__: os.kill(os.getpid(), 9)\n"
        f"get_data.main(['--dataset', 'glyphs', '--data_dir', {str(tmp_path)!r}])\n"
    )
    died = subprocess.run([sys.executable, "-c", script, "die"], cwd=PROGRAM.parent, check=False)
    assert died.returncode == -signal.SIGKILL
    assert not (tmp_path / "glyphs").exists() and (tmp_path / ".glyphs.new" / "test.npy").exists()
    subprocess.run([sys.executable, "-c", script], cwd=PROGRAM.parent, check=True)
    assert (tmp_path / "glyphs" / "manifest.json").exists() and not (tmp_path / ".glyphs.new").exists()


def test_two_at_once(tmp_path):
    with making(tmp_path / "glyphs"):
        refused(process("--dataset", "glyphs", "--data_dir", tmp_path), "another get_data.py")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_an_array_on_a_full_disk():
    with pytest.raises(OSError, match="No space") as caught:
        save(Path("/dev/full"), np.zeros((1, 1, 2, 2, 1), np.uint8))
    assert caught.value.errno == errno.ENOSPC


def test_a_full_disk(tmp_path):
    # A limit on the size of a file stands for the full disk: writing stops in the middle in the same way.
    script = (
        "import errors, get_data\n"
        "get_data.GLYPHS_SPLITS = {'train': 10, 'test': 1}\n"
        f"errors.run(lambda: get_data.main(['--dataset', 'glyphs', '--data_dir', {str(tmp_path)!r}]))\n"
    )
    limited = ["bash", "-c", 'ulimit -f 100; exec "$0" -c "$1"', sys.executable, script]
    result = subprocess.run(limited, cwd=PROGRAM.parent, capture_output=True, text=True, check=False)
    refused(result, "File too large", "free some space")
    assert not leftovers(tmp_path)


def test_an_unusable_data_dir(tmp_path):
    (tmp_path / "file").write_text("")
    refused(command("--dataset", "glyphs", "--data_dir", tmp_path / "file"), "--data_dir")
    if os.geteuid():
        (tmp_path / "locked").mkdir(mode=0o500)
        refused(command("--dataset", "glyphs", "--data_dir", tmp_path / "locked"), "Permission denied")
