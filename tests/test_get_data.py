"""get_data.py as a user meets it: what it makes, and how it ends when input, network or disk fail."""

import errno
import hashlib
import io
import json
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import tarfile
import time
import types
import warnings
import zipfile
import zlib
from contextlib import redirect_stderr, redirect_stdout
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import download
import files
import get_data
from arrays import making, open_npy, save
from errors import UserError, run
from glyphs import draw_glyphs
from misbehaving_server import serve

PROGRAM = Path(__file__).parents[1] / "get_data.py"
REAL = Path(__file__).parents[2] / "shared" / "data"


def command(*args):
    """The program, in this process, which saves its start; an exception that would be a traceback passes through."""
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


def replace(monkeypatch, **tables):
    """Other entries in get_data's tables, which are default arguments too."""
    for name, table in tables.items():
        for key, value in table.items():
            monkeypatch.setitem(getattr(get_data, name), key, value)


def leftovers(folder):
    """What a later run could take for a dataset, or a half of one."""
    return [path for path in folder.rglob("*") if path.suffix == ".npy" or path.name == "manifest.json"]


# --- downloading ---

SHAPE = (1000, 500)
BODY = npy(np.random.RandomState(0).randint(0, 256, SHAPE, np.uint8))
DIGEST = hashlib.sha256(BODY).hexdigest()
HALF = len(BODY) // 2
fetch = partial(download.download, shape=SHAPE, wait=0.001)


@pytest.mark.parametrize(
    ("manners", "ranges"),
    [
        (["well"], [False]),
        (["no length"], [False]),
        (["in chunks"], [False]),
        (["no ETag"], [False]),
        (["drops", "drops", "well"], [False, True, True]),
        (["drops, no length", "no length"], [False, True]),
        (["drops, no ETag", "well"], [False, False]),
        (["sends nothing, no length", "well"], [False, False]),
        (["drops", "ignores Range"], [False, True]),
        (["drops", "500", "429", "503", "well"], [False, True, True, True, True]),
        (["stalls", "well"], [False, True]),
        (["drops", "416", "well"], [False, True, False]),
        (["drops", "begins a byte later", "well"], [False, True, False]),
    ],
)
def test_a_download_survives(tmp_path, manners, ranges):
    path = tmp_path / "x.npy"
    with serve(BODY, *manners) as server:
        fetch(f"{server.url}/x.npy", path, timeout=0.5)
        assert path.read_bytes() == BODY
        fetch(f"{server.url}/x.npy", path)  # asks nothing
    assert not (tmp_path / "x.npy.part").exists()
    assert [bool(asked) for asked in server.asked] == ranges


@pytest.mark.parametrize("second", ["well", "ignores If-Range"])
def test_two_versions_of_a_file_are_never_joined(tmp_path, second):
    with serve(BODY, "drops, then changes", second) as server:
        fetch(f"{server.url}/x.npy", tmp_path / "x.npy")
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
        ("stalls", r"nothing arrived for 0\.1 seconds"),
        ("drops and ignores Range", "of 500128 bytes"),
        ("drops and ignores Range, no length", "only 250064 of 500128 bytes"),
        ("sends nothing, no length", "nothing arrived"),
        ("claims more", r"500228 bytes, and its \.npy header says 500128"),
        ("goes on, no length", "goes on after the 500128 bytes"),
    ],
)
def test_a_download_gives_up_with_a_sentence(tmp_path, manner, words):
    with serve(BODY, manner) as server, pytest.raises(UserError, match=words):
        fetch(f"{server.url}/x.npy", tmp_path / "x.npy", retries=2, timeout=0.1)
    assert not (tmp_path / "x.npy").exists()


def test_a_download_of_another_array_is_refused_at_its_beginning(tmp_path):
    with serve(BODY, "stalls") as server, pytest.raises(UserError, match=r"shape \(1000, 500\), not \(500, 900\)"):
        fetch(f"{server.url}/x.npy", tmp_path / "x.npy", shape=(500, 900), timeout=1)
    with serve(BODY[:3] + BODY, "well") as server, pytest.raises(UserError, match=r"not an \.npy"):
        fetch(f"{server.url}/x.npy", tmp_path / "x.npy")
    with serve(BODY[:100], "well") as server, pytest.raises(UserError, match="header is damaged or cut short"):
        fetch(f"{server.url}/x.npy", tmp_path / "x.npy", retries=1)
    assert len(server.asked) == 2 and [file.name for file in tmp_path.iterdir()] == ["x.npy.lock"]


def test_only_failures_in_a_row_count(tmp_path):
    with serve(BODY, "drops", "500", "drops", "500", "well") as server:
        fetch(f"{server.url}/x.npy", tmp_path / "x.npy", retries=2)
    with serve(BODY, "500") as server, pytest.raises(UserError):
        fetch(f"{server.url}/x.npy", tmp_path / "x.npy", retries=2)
    assert len(server.asked) == 3


def test_the_pauses_grow_or_are_the_servers(tmp_path, monkeypatch, capsys):
    pauses = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    with serve(BODY, *["500"] * 8, "429 after 7", "503 after 86400", "503 after Monday", "well") as server:
        fetch(f"{server.url}/x.npy", tmp_path / "x.npy", retries=11, wait=0.5)
    assert pauses == [0.5, 1, 2, 4, 8, 16, 32, 60, 60, 60, 60]
    with serve(BODY, "429 after 7", "well") as server:
        fetch(f"{server.url}/y.npy", tmp_path / "y.npy", wait=0.5)
    assert pauses[11:] == [7] and "trying again in 7 s" in capsys.readouterr().out


def test_a_later_run_goes_on_from_the_very_byte(tmp_path):
    path = tmp_path / "x.npy"
    with serve(BODY, "drops", "well") as server:
        with pytest.raises(UserError, match="goes on where"):
            fetch(f"{server.url}/x.npy", path, retries=0)
        begun = (tmp_path / "x.npy.part").stat().st_size
        assert 0 < begun < len(BODY)
        fetch(f"{server.url}/x.npy", path)
    assert path.read_bytes() == BODY
    assert server.asked == [None, f"bytes={begun}-"] and server.conditions == [None, server.etag]


def test_another_address_starts_afresh(tmp_path):
    with serve(BODY, "drops", "well") as server:
        with pytest.raises(UserError):
            fetch(f"{server.url}/x.npy", tmp_path / "x.npy", retries=0)
        fetch(f"{server.url}/y.npy", tmp_path / "x.npy")
    assert server.asked == [None, None]


def test_a_note_that_is_not_one_starts_afresh(tmp_path):
    with serve(BODY) as server:
        url = f"{server.url}/x.npy"
        for note in ("", "{", "[]", '"x"', json.dumps({"url": url}), json.dumps({"url": url, "bytes": None})):
            (tmp_path / "x.npy.json").write_text(note)
            (tmp_path / "x.npy.part").write_bytes(b"something")
            fetch(url, tmp_path / "x.npy")
            assert (tmp_path / "x.npy").read_bytes() == BODY
    assert server.asked == [None] * 6


@pytest.mark.parametrize("damaged", [BODY[:-1] + bytes([BODY[-1] ^ 1]), BODY[:HALF], BODY + b"x", b""])
def test_a_file_that_was_damaged_later_is_not_taken_for_whole(tmp_path, damaged):
    path = tmp_path / "x.npy"
    with serve(BODY) as server:
        fetch(f"{server.url}/x.npy", path)
        path.write_bytes(damaged)
        fetch(f"{server.url}/x.npy", path)
    assert path.read_bytes() == BODY and len(server.asked) == 2


def test_two_downloads_of_one_file(tmp_path):
    with files.locked(tmp_path / "x.npy.lock", ""), pytest.raises(UserError, match=r"is downloading .*x\.npy: wait"):
        fetch("http://127.0.0.1:9/x.npy", tmp_path / "x.npy", retries=0)


@pytest.fixture
def disk(monkeypatch):
    """What is asked of the disk, in order: ("sync", inode, bytes) and ("rename", the new path)."""
    events, fsync = [], os.fsync

    def record(name):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda a, b: (events.append(("rename", str(b))), real(a, b)))

    monkeypatch.setattr(
        os, "fsync", lambda f: (events.append(("sync", os.fstat(f).st_ino, os.fstat(f).st_size)), fsync(f))
    )
    record("rename")
    record("replace")
    return events


def test_a_download_survives_a_power_cut(tmp_path, disk):
    path = tmp_path / "x.npy"
    with serve(BODY) as server:
        fetch(f"{server.url}/x.npy", path)
    there = disk.index(("rename", str(path)))
    assert ("sync", path.stat().st_ino, len(BODY)) in disk[:there]
    assert ("sync", path.stat().st_ino, 0) in disk[: disk.index(("rename", f"{path}.json"))]  # emptied before its note
    assert [event[1] for event in disk[there + 1 :]] == [tmp_path.stat().st_ino]


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
    originals = authors_arrays()
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    train, test = map(npy, originals.values())
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
    for split, array in originals.items():
        np.testing.assert_array_equal(np.load(tmp_path / "mimgnet" / f"{split}.npy"), array.reshape(AUTHORS[split]))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (npy(np.zeros((600, 64, 3))), "shape"),
        (npy(np.zeros((4, 5, 108))), "shape"),
        (npy(np.full((5, 4, 108), np.nan)), "not finite"),
        (npy(np.full((5, 4, 108), "x")), "not numbers"),
        (npy(np.zeros((5, 4, 108)))[:-9], "cut short"),
        (npy(np.zeros((5, 4, 108))) + b"x", "its header says 17408 bytes, and it has 17409"),
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


def test_a_damaged_header_is_one_sentence(tmp_path):
    whole = npy(np.zeros((2, 3)))
    for i in range(80):  # the rest is padding
        for byte in (40, whole[i] ^ 1):
            (tmp_path / "x.npy").write_bytes(whole[:i] + bytes([byte]) + whole[i + 1 :])
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    assert open_npy(tmp_path / "x.npy").nbytes == 48
            except UserError as fault:
                assert re.search(r"damaged or cut short|not an \.npy|not numbers", str(fault))


BODYS = {"train": SHAPE, "test": SHAPE}  # stand for the authors' arrays


def test_the_command_line_on_a_bad_network(tmp_path, monkeypatch):
    monkeypatch.setattr(get_data, "MIMGNET_AUTHORS", BODYS)
    args = ["--dataset", "mimgnet", "--data_dir", tmp_path, "--retries", 0, "--timeout", 0.2, "--mirror"]
    refused(command(*args, "http://127.0.0.1:9"), "connection refused", "--source", "--mirror")
    for nonsense in ("http://[::1", "http://a..b", "http://127.0.0.1:99999", "http://127.0.0.1:x", "http://%zz"):
        refused(command(*args, nonsense), "check the address")
    with serve(BODY, "404", "html", "stalls", "drops") as server:
        refused(command(*args, server.url), "404")
        refused(command(*args, server.url), "web page")
        refused(command(*args, server.url), "nothing arrived for 0.2 seconds")
        refused(command(*args, server.url), "bytes")
    assert not leftovers(tmp_path)


@pytest.mark.parametrize(("sign", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)])
def test_stopped_in_the_middle(tmp_path, monkeypatch, sign, code):
    monkeypatch.setattr(get_data, "MIMGNET_AUTHORS", BODYS)
    script = f"import errors, get_data; get_data.MIMGNET_AUTHORS = {BODYS}; errors.run(get_data.main)"
    with serve(BODY, "stalls", "well", "404") as server:
        args = ["--dataset", "mimgnet", "--data_dir", str(tmp_path), "--mirror", server.url, "--retries", "0"]
        heed = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}  # a background job ignores Ctrl-C
        program = subprocess.Popen(
            [sys.executable, "-c", script, *args], cwd=PROGRAM.parent, stderr=subprocess.PIPE, **heed
        )
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
    wanted = deal(3)
    for route, drawings in found.items():
        (tmp_path / "out" / route).mkdir(parents=True)
        assert get_data.write_omniglot(tmp_path / "out" / route, drawings, 3, SPLITS) == wanted
        for split, its_names in wanted.items():
            made = np.load(tmp_path / "out" / route / f"{split}.npy")
            np.testing.assert_array_equal(made, np.stack([shrunk(files, name, 28) for name in its_names]))
    assert made.mean() < 100  # ink is 255 and rare, paper 0


def deal(seed):
    """split -> names of its characters, of the five of fake_omniglot."""
    names = ["Arcadian/character01", "Greek/character09", "Greek/character10", "Zulu/character01", "Zulu/character02"]
    dealt = [names[i] for i in np.random.RandomState(seed).permutation(5)]
    return {"train": dealt[:3], "val": dealt[3:4], "test": dealt[4:]}


def shrunk(originals, name, size):
    """The drawings of a character as they should be stored, uint8 [drawings, size, size, 1]."""
    images = [Image.open(io.BytesIO(data)).convert("L") for path, data in originals.items() if f"{name}/" in path]
    inks = sorted((255 - np.asarray(image) for image in images), key=lambda ink: hashlib.sha256(ink.tobytes()).digest())
    small = [Image.fromarray(ink).resize((size, size), Image.Resampling.LANCZOS) for ink in inks]
    return np.stack(small)[..., None]


@pytest.mark.parametrize("size", [28, 14])
def test_omniglot_by_the_command_line(tmp_path, monkeypatch, size):
    replace(monkeypatch, OMNIGLOT_PARTS=PARTS, OMNIGLOT_SPLITS=SPLITS)
    originals = fake_omniglot(20)
    lay(tmp_path / "zips", originals, True)
    args = ["--dataset", "omniglot", "--data_dir", tmp_path, "--source", tmp_path / "zips", "--seed", 3]
    made = command(*args, "--size", size)
    assert made.returncode == 0, made.stderr
    manifest = json.loads((tmp_path / "omniglot" / "manifest.json").read_text())
    assert (manifest["rotations"], manifest["split_seed"], manifest["image_shape"]) == (4, 3, [size, size, 1])
    assert manifest["source"]["given"] == str(tmp_path / "zips") and len(manifest["source"]["files"]) == 2
    assert {split: entry["names"] for split, entry in manifest["splits"].items()} == deal(3) != deal(0)
    assert [entry["classes"] for entry in manifest["splits"].values()] == [12, 4, 4]
    for split, entry in manifest["splits"].items():
        array = np.load(tmp_path / "omniglot" / f"{split}.npy")
        np.testing.assert_array_equal(array, np.stack([shrunk(originals, name, size) for name in entry["names"]]))
        assert entry["sha256"] == hashlib.sha256((tmp_path / "omniglot" / f"{split}.npy").read_bytes()).hexdigest()
    if size == 14:
        refused(command(*args), "--size 14, not 28", "--force")
    else:
        refused(command(*args[:-1], 4), "--seed 3, not 4", "--force")


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


def test_tfds_that_fails_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")  # which the program sets
    drawn = {"image": np.zeros((105, 105, 1), np.uint8), "alphabet": 0, "alphabet_char_id": 0}
    builder = types.SimpleNamespace(
        data_dir=str(tmp_path),
        url_infos={"http://127.0.0.1:9/x.zip": None},
        info=types.SimpleNamespace(features={"alphabet": types.SimpleNamespace(int2str=str)}, full_name="omniglot"),
        download_and_prepare=lambda: print("download_and_prepare"),
        as_dataset=lambda split: [drawn],
    )
    tfds = types.SimpleNamespace(disable_progress_bar=lambda: None, as_numpy=lambda examples: examples)

    def omniglot(module):
        monkeypatch.setitem(sys.modules, "tensorflow_datasets", module)
        result = command("--dataset", "omniglot", "--data_dir", tmp_path / "data")
        assert not leftovers(tmp_path / "data")
        return result

    refused(omniglot(None), "ModuleNotFoundError", "--source")
    tfds.builder = {"omniglot": builder}.__getitem__
    offline = omniglot(tfds)
    refused(offline, "connection refused", "--source")
    assert "download_and_prepare" not in offline.stdout  # which would try again for minutes
    (tmp_path / "dataset_info.json").write_text("{}")  # prepared by an earlier run: needs no network
    prepared = omniglot(tfds)
    refused(prepared, "holds 1 characters, not 1623")
    assert "download_and_prepare" in prepared.stdout
    monkeypatch.setattr(builder, "download_and_prepare", lambda: raise_it(ConnectionError("no\nnetwork")))
    refused(omniglot(tfds), "ConnectionError: no)", "--source")


def raise_it(fault):
    raise fault


@pytest.mark.slow
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
    assert {name: split["sha256"][:16] for name, split in splits.items()} == {
        "train": "9d29b947a0281e26",
        "val": "cfc1b3639ccdf5bc",
        "test": "a97717bc357195cd",
    }


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
            pixels = np.random.RandomState(len(files)).randint(0, 256, (side, side, 3), np.uint8)
            Image.fromarray(pixels).save(image, "jpeg")
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
                    original = files[f"mini/images/{split}{c}_{i}.jpg"]
                    np.testing.assert_array_equal(made[c, i], resized(original, 8))


def resized(original, side):
    image = Image.open(io.BytesIO(original))
    return np.asarray(image.resize((side, side), Image.Resampling.LANCZOS))


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
    shared = fault(**{"test.csv": files["mini/test.csv"].replace(b"ntest1", b"ntrain2")})
    assert "test.csv" in shared and "has the class ntrain2 of train.csv" in shared
    assert "old/val0_0.jpg in" in fault(**{"old/val0_0.jpg": files["mini/images/val0_0.jpg"]})
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


def test_mimgnet_by_the_command_line(tmp_path, monkeypatch):
    replace(monkeypatch, MIMGNET_SPLITS=CLASSES)
    originals = fake_mimgnet()
    (tmp_path / "in").mkdir()
    pack(tmp_path / "in" / "mini-imagenet.tar", originals)
    args = ["--dataset", "mimgnet", "--data_dir", tmp_path, "--source", tmp_path / "in"]
    assert command(*args).returncode == 0
    manifest = json.loads((tmp_path / "mimgnet" / "manifest.json").read_text())
    assert (manifest["rotations"], manifest["split_seed"], manifest["image_shape"]) == (1, None, [84, 84, 3])
    assert [file["name"] for file in manifest["source"]["files"]] == ["mini-imagenet.tar"]
    assert manifest["splits"]["val"]["names"] == ["nval0", "nval1"]
    made = np.load(tmp_path / "mimgnet" / "val.npy")[1, 1]
    np.testing.assert_array_equal(made, resized(originals["mini/images/val1_1.jpg"], 84))
    again = command(*args)
    assert "is complete" in again.stdout and f"made from {tmp_path / 'in'}" in again.stdout
    (tmp_path / "in" / "mini-imagenet.zip").write_bytes(b"")
    refused(command(*args, "--force"), "2 archives named like")


# --- files of absurd size, and folders that cannot be read ---


def zip_that_declares(path, size, data):
    """A zip of one member, train.csv; its directory declares this size, whatever data is."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("train.csv", data)
    content = bytearray(path.read_bytes())
    struct.pack_into("<I", content, content.index(b"PK\1\2") + 24, size)
    path.write_bytes(content)


def test_a_file_of_absurd_size_is_not_read(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    with open(folder / "train.csv", "wb") as file:
        file.truncate(1 << 40)  # a hole: it takes no space
    member = tarfile.TarInfo("train.csv")
    member.size = 1 << 40
    (tmp_path / "x.tar").write_bytes(member.tobuf())
    zip_that_declares(tmp_path / "x.zip", (1 << 32) - 2, b"")
    for source in (folder, tmp_path / "x.tar", tmp_path / "x.zip"):
        with pytest.raises(UserError, match=r"train\.csv in .* has more than 64 MiB"):
            get_data.read_tables(source)


def test_a_file_that_is_larger_than_it_says(tmp_path, monkeypatch):
    monkeypatch.setattr(download, "LARGEST", 1 << 20)
    zip_that_declares(tmp_path / "x.zip", 10, bytes(1 << 22))
    with pytest.raises(UserError, match="not a whole zip"):
        get_data.read_tables(tmp_path / "x.zip")
    endless = types.SimpleNamespace(read=bytes)
    with pytest.raises(UserError, match="more than 1 MiB"):
        download._read(endless, 10, "x", tmp_path)


@pytest.mark.parametrize("side", [10000, 20000])
def test_an_image_of_absurd_size_is_not_decoded(side):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0))
    image = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", b"") + chunk(b"IEND", b"")
    with pytest.raises(UserError, match=f"x.png is refused .*{side * side} pixels"):
        download.decode(image, "x.png", "L")


def test_a_folder_that_cannot_be_read(tmp_path, monkeypatch):
    lay(tmp_path / "in", fake_mimgnet(), False)
    scandir = os.scandir

    def scan(path):
        if str(path).endswith("images"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", scan)
    args = ["--dataset", "mimgnet", "--source", tmp_path / "in" / "mini", "--data_dir", tmp_path / "data"]
    refused(command(*args), "mini/images: Permission denied")
    assert not leftovers(tmp_path / "data")


# --- the command line ---


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
    refused(command("--dataset", "mimgnet", "--source", "/dev/null", *out), "there is no folder and no file")
    refused(command("--dataset", "omnigolt", *out), "omnigolt", "--help")
    refused(command("--dataset", "glyphs", "--sed", 3, *out), "--sed")
    refused(command("--dataset", "glyphs", "--verify", *out), "there is no")
    assert not leftovers(tmp_path / "data")


VALUES = {
    "source": ".",
    "seed": "0",
    "size": "28",
    "mirror": "http://127.0.0.1:9",
    "timeout": "60",
    "retries": "5",
    "force": None,
    "verify": None,
}


@pytest.mark.parametrize(
    ("words", "taken"),
    [
        ("--dataset omniglot", "source seed size force verify"),
        ("--dataset omniglot --source SOURCE", "source force verify"),
        ("--dataset mimgnet", "source mirror timeout retries force verify"),
        ("--dataset mimgnet --source SOURCE", "source force verify"),
        ("--dataset glyphs", "seed force verify"),
        ("--dataset omniglot --verify", "verify"),
    ],
)
def test_a_flag_that_would_do_nothing_is_refused(tmp_path, words, taken):
    np.save(tmp_path / "train.npy", np.zeros(1))  # SOURCE holds what may be the authors' arrays
    words = words.replace("SOURCE", str(tmp_path)).split()
    for flag, value in VALUES.items():
        asked = [*words, f"--{flag}", *([value] if value else [])]
        if flag not in taken.split():
            refused(command(*asked, "--data_dir", tmp_path), f"--{flag} has no meaning for")
        elif flag != "verify" or "--source" not in words:  # which --verify does not take
            assert value is None or str(vars(get_data.parse(asked))[flag]).startswith(value)


@pytest.mark.parametrize(
    ("dataset", "flag", "values"),
    [
        ("mimgnet", "timeout", "nan inf -inf 0 -1 1e+300 x"),
        ("mimgnet", "retries", "-1 1001 1.5 nan x"),
        ("mimgnet", "mirror", "nonsense ftp://x file:///x http:// HTTP:/x"),
        ("omniglot", "size", "0 -1 106 nan 28.0 x"),
        ("omniglot", "seed", "-1 4294967296 nan x"),
        ("glyphs", "seed", "-1 4294967296 nan x"),
    ],
)
def test_a_mistyped_value_is_refused(tmp_path, dataset, flag, values):
    for value in values.split():
        refused(command("--dataset", dataset, f"--{flag}={value}", "--data_dir", tmp_path), f"--{flag}", value)
    for name in ("source", "data_dir"):
        refused(command("--dataset", "omniglot", f"--{name}="), f"--{name}", "empty")
    assert not leftovers(tmp_path)


# --- glyphs, and what all datasets have in common ---


@pytest.fixture
def glyphs(data_dir):
    return data_dir / "glyphs"


@pytest.fixture
def few(monkeypatch):
    """Seven characters where there are 150."""
    replace(monkeypatch, GLYPHS_SPLITS=FEW)


FEW = {"train": 4, "val": 2, "test": 1}


def test_glyphs(glyphs):
    manifest = json.loads((glyphs / "manifest.json").read_text())
    assert manifest["split_seed"] == 0 and manifest["rotations"] == 4 and manifest["scale"] == 1 / 255
    arrays = [np.load(glyphs / f"{split}.npy") for split in ("train", "val", "test")]
    assert [len(array) for array in arrays] == [100, 20, 30]
    np.testing.assert_array_equal(np.concatenate(arrays)[:3], draw_glyphs(3, 20, seed=0))
    assert np.concatenate(arrays).mean(axis=(2, 3, 4)).min() > 2  # no drawing is all but empty


def test_glyphs_by_the_command_line(tmp_path, few):
    assert command("--dataset", "glyphs", "--data_dir", tmp_path, "--seed", 1).returncode == 0
    manifest = json.loads((tmp_path / "glyphs" / "manifest.json").read_text())
    assert manifest["split_seed"] == 1 and manifest["source"] == {"given": "glyphs.py", "files": []}
    start, drawn = 0, draw_glyphs(7, 20, seed=1)
    for split, count in FEW.items():
        np.testing.assert_array_equal(np.load(tmp_path / "glyphs" / f"{split}.npy"), drawn[start : start + count])
        assert manifest["splits"][split]["names"] == [f"glyph{c:03d}" for c in range(start, start + count)]
        start += count


def test_glyphs_are_the_same_bytes_everywhere():
    """The README's demo is quoted from these drawings."""
    digest = hashlib.sha256(draw_glyphs(12, 4, seed=5).tobytes()).hexdigest()
    assert digest[:16] == "184816f1294c8776"


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


def test_damage_is_seen_and_mended(tmp_path, few):
    args, folder = ["--dataset", "glyphs", "--data_dir", tmp_path], tmp_path / "glyphs"
    assert command(*args).returncode == 0
    manifest, whole = (folder / "manifest.json").read_text(), (folder / "val.npy").read_bytes()
    (folder / "val.npy").write_bytes(whole[:-1] + b"\x07")
    assert command(*args).returncode == 0  # a look at the sizes only
    refused(command(*args, "--verify"), "val.npy", "checksum")
    (folder / "val.npy").write_bytes(b"")
    refused(command(*args), "val.npy", "--force")
    for field in json.loads(manifest).keys() - {"versions", "created"}:
        (folder / "manifest.json").write_text(manifest.replace(f'"{field}"', '"other"'))
        refused(command(*args), "manifest.json is damaged", "--force")
    for text in ("", "[]", "{}", '"x"', manifest.replace('"names"', '"other"'), manifest[:-9]):
        (folder / "manifest.json").write_text(text)
        refused(command(*args), "manifest.json is damaged", "--force")
    assert command(*args, "--force").returncode == 0
    assert (folder / "val.npy").read_bytes() == whole and command(*args, "--verify").returncode == 0


def test_files_of_others_are_never_replaced(tmp_path):
    (tmp_path / "glyphs").mkdir()
    (tmp_path / "glyphs" / "train.npy").write_bytes(b"precious")
    refused(command("--dataset", "glyphs", "--data_dir", tmp_path, "--force"), "did not make")
    assert (tmp_path / "glyphs" / "train.npy").read_bytes() == b"precious"
    (tmp_path / "glyphs" / "train.npy").unlink()
    (tmp_path / "glyphs" / "manifest.json").write_text("{}")
    (tmp_path / "glyphs" / "notes.txt").write_text("precious")
    refused(command("--dataset", "glyphs", "--data_dir", tmp_path, "--force"), "did not make")
    assert (tmp_path / "glyphs" / "notes.txt").read_text() == "precious"
    (tmp_path / "mimgnet").mkdir()
    (tmp_path / "mimgnet" / "train.npy").write_bytes(b"precious")
    source = ["--source", tmp_path / "mimgnet"]
    refused(command("--dataset", "mimgnet", "--data_dir", tmp_path, *source), "what would be replaced")
    assert (tmp_path / "mimgnet" / "train.npy").read_bytes() == b"precious"


def test_killed_while_it_writes(tmp_path, few):
    """A process that dies between the arrays and the manifest leaves nothing in place or in the way."""
    script = (
        "import os, get_data\n"
        "get_data.GLYPHS_SPLITS = {'train': 2, 'test': 1}\n"
        "get_data.write_manifest = lambda *_, **__: os.kill(os.getpid(), 9)\n"
        f"get_data.main(['--dataset', 'glyphs', '--data_dir', {str(tmp_path)!r}])\n"
    )
    died = subprocess.run([sys.executable, "-c", script], cwd=PROGRAM.parent, check=False)
    assert died.returncode == -signal.SIGKILL
    assert not (tmp_path / "glyphs").exists() and (tmp_path / ".glyphs.new" / "test.npy").exists()
    assert command("--dataset", "glyphs", "--data_dir", tmp_path).returncode == 0
    assert (tmp_path / "glyphs" / "manifest.json").exists() and not (tmp_path / ".glyphs.new").exists()


def test_a_dataset_outlives_what_was_to_replace_it(tmp_path, few, monkeypatch):
    target, args = tmp_path / "glyphs", ["--dataset", "glyphs", "--data_dir", tmp_path]
    assert command(*args).returncode == 0
    target.rename(tmp_path / ".glyphs.old")  # as when it was killed between the two renames
    with pytest.raises(KeyError), making(target):
        raise KeyError
    assert command(*args, "--verify").returncode == 0 and not (tmp_path / ".glyphs.old").exists()
    rename = Path.rename
    full = OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr(Path, "rename", lambda a, b: raise_it(full) if a.name == ".glyphs.new" else rename(a, b))
    refused(command(*args, "--force"), "No space left", "free some space")
    assert command(*args, "--verify").returncode == 0


def test_a_dataset_survives_a_power_cut(tmp_path, few, disk):
    folder = tmp_path / "glyphs"
    for force in ((), ("--force",)):
        del disk[:]
        assert command("--dataset", "glyphs", "--data_dir", tmp_path, *force).returncode == 0
        there = disk.index(("rename", str(folder)))
        before, after = ({event[1] for event in events} for events in (disk[:there], disk[there + 1 :]))
        assert before >= {path.stat().st_ino for path in (folder, *folder.iterdir())}
        assert tmp_path.stat().st_ino in after


def test_two_at_once(tmp_path):
    with making(tmp_path / "glyphs"):
        refused(command("--dataset", "glyphs", "--data_dir", tmp_path), "is making", "wait for it")


def test_a_system_without_locks(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "fcntl", None)
    refused(command("--dataset", "glyphs", "--data_dir", tmp_path), "Windows", "WSL")


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
    refused(command("--dataset", "glyphs", "--data_dir", tmp_path / "file"), "cannot write into", "file")
    if os.geteuid():
        (tmp_path / "locked").mkdir(mode=0o500)
        refused(command("--dataset", "glyphs", "--data_dir", tmp_path / "locked"), "Permission denied")
