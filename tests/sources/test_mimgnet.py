"""miniImageNet from mirrors, folders and archives, whole and faulty."""

import errno
import io
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

import get_data
from conftest import assert_refused
from errors import UserError
from misbehaving_server import serve
from originals import (
    AUTHORS,
    BODY,
    CLASSES,
    ROOT,
    SHAPE,
    authors_arrays,
    command,
    fake_mimgnet,
    lay,
    leftovers,
    npy,
    pack,
    replace,
)
from sources import mimgnet

BODIES = {"train": SHAPE, "test": SHAPE}  # stand for the authors' arrays


def test_mimgnet_from_a_mirror(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(mimgnet, "AUTHORS_SHAPES", AUTHORS)
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


def test_the_command_line_on_a_bad_network(tmp_path, monkeypatch):
    monkeypatch.setattr(mimgnet, "AUTHORS_SHAPES", BODIES)
    args = ["--dataset", "mimgnet", "--data_dir", tmp_path, "--retries", 0, "--timeout", 1, "--mirror"]
    assert_refused(command(*args, "http://127.0.0.1:9"), "connection refused", "--source", "--mirror")
    for nonsense in ("http://[::1", "http://a..b", "http://127.0.0.1:99999", "http://127.0.0.1:x", "http://%zz"):
        assert_refused(command(*args, nonsense), "check the address")
    with serve(BODY, "404", "html", "stalls", "drops") as server:
        assert_refused(command(*args, server.url), "404")
        assert_refused(command(*args, server.url), "web page")
        assert_refused(command(*args, server.url), "nothing arrived for 1 seconds")
        assert_refused(command(*args, server.url), "bytes")
    assert not leftovers(tmp_path)


@pytest.mark.parametrize(("sign", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)])
def test_stopped_in_the_middle(tmp_path, monkeypatch, sign, code):
    monkeypatch.setattr(mimgnet, "AUTHORS_SHAPES", BODIES)
    script = (
        "import errors, get_data\n"
        "from sources import mimgnet\n"
        f"mimgnet.AUTHORS_SHAPES = {BODIES}\n"
        "errors.run(get_data.main)\n"
    )
    with serve(BODY, "stalls", "well", "404") as server:
        args = ["--dataset", "mimgnet", "--data_dir", str(tmp_path), "--mirror", server.url, "--retries", "0"]
        heed = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}  # a background job ignores Ctrl-C
        program = subprocess.Popen([sys.executable, "-c", script, *args], cwd=ROOT, stderr=subprocess.PIPE, **heed)
        part = tmp_path / "downloads" / "mimgnet" / "train.npy.part"
        while not (part.is_file() and part.stat().st_size):
            assert program.poll() is None
            time.sleep(0.01)
        program.send_signal(sign)
        _, said = program.communicate(timeout=20)
        assert program.returncode == code and b"Traceback" not in said
        assert not leftovers(tmp_path)
        assert_refused(command(*args), "404")  # the rest of train.npy came, test.npy is not there
        assert server.asked[1].startswith("bytes=")
    assert (tmp_path / "downloads" / "mimgnet" / "train.npy").read_bytes() == BODY


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
        names = mimgnet.write_mimgnet(out, source, CLASSES, side=8)
        assert names["train"] == ["ntrain0", "ntrain1", "ntrain2"]
        for split, classes in CLASSES.items():
            array = np.load(out / f"{split}.npy")
            assert array.shape == (classes, 2, 8, 8, 3) and array.dtype == np.uint8
            np.testing.assert_array_equal(array, np.load(tmp_path / "0" / f"{split}.npy"))
            for c in range(classes):
                for i in range(2):
                    original = files[f"mini/images/{split}{c}_{i}.jpg"]
                    np.testing.assert_array_equal(array[c, i], resized(original, 8))


def resized(original, side):
    image = Image.open(io.BytesIO(original))
    return np.asarray(image.resize((side, side), Image.Resampling.LANCZOS))


def test_mimgnet_has_100_classes_of_600_images():
    assert mimgnet.SPLITS == {"train": 64, "val": 16, "test": 20} and mimgnet.SIDE == 84
    assert mimgnet.AUTHORS_SHAPES == {"train": (64, 600, 84, 84, 3), "test": (20, 600, 84, 84, 3)}
    assert all(f"/{split}.npy" in url for split, url in mimgnet.AUTHORS_URLS.items()) and len(mimgnet.AUTHORS_URLS) == 2


def test_mimgnet_refused(tmp_path):
    files = fake_mimgnet()
    table = files["mini/train.csv"]

    def fault(**changes):
        changed = {**files, **{f"mini/{name}": data for name, data in changes.items()}}
        changed = {name: data for name, data in changed.items() if data is not None}
        with pytest.raises(UserError) as caught:
            mimgnet.write_mimgnet(tmp_path, pack(tmp_path / "x.tar", changed), CLASSES, side=8)
        return str(caught.value)

    assert "no val.csv" in fault(**{"val.csv": None})
    assert "2 classes, not 3" in fault(**{"train.csv": b"\n".join(table.splitlines()[:5])})
    assert "1 to 2 images" in fault(**{"train.csv": b"\n".join(table.splitlines()[:6])})
    assert "a second time" in fault(**{"train.csv": table + b"\n" + table.splitlines()[1]})
    assert "filename,label" in fault(**{"train.csv": b"\x89PNG"})
    assert "filename,label" in fault(**{"train.csv": b""})
    shared = fault(**{"test.csv": files["mini/test.csv"].replace(b"ntest1", b"ntrain2")})
    assert "test.csv" in shared and "has the class ntrain2, which train.csv has too" in shared
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
                mimgnet.write_mimgnet(tmp_path, path, CLASSES, side=8)


def test_mimgnet_by_the_command_line(tmp_path, monkeypatch):
    replace(monkeypatch, mimgnet.SPLITS, **CLASSES)
    originals = fake_mimgnet()
    (tmp_path / "in").mkdir()
    pack(tmp_path / "in" / "mini-imagenet.tar", originals)
    args = ["--dataset", "mimgnet", "--data_dir", tmp_path, "--source", tmp_path / "in"]
    assert command(*args).returncode == 0
    manifest = json.loads((tmp_path / "mimgnet" / "manifest.json").read_text())
    assert (manifest["rotations"], manifest["split_seed"], manifest["image_shape"]) == (1, None, [84, 84, 3])
    assert [file["name"] for file in manifest["source"]["files"]] == ["mini-imagenet.tar"]
    assert manifest["splits"]["val"]["names"] == ["nval0", "nval1"]
    assert manifest["prepare"] == {"size": 84, "channels": 3, "invert": False}
    image = np.load(tmp_path / "mimgnet" / "val.npy")[1, 1]
    np.testing.assert_array_equal(image, resized(originals["mini/images/val1_1.jpg"], 84))
    again = command(*args)
    assert "is complete" in again.stdout and f"made from {tmp_path / 'in'}" in again.stdout
    (tmp_path / "in" / "mini-imagenet.zip").write_bytes(b"")
    assert_refused(command(*args, "--force"), "2 archives named like")


def test_a_folder_that_cannot_be_read(tmp_path, monkeypatch):
    lay(tmp_path / "in", fake_mimgnet(), False)
    scandir = os.scandir

    def scan(path):
        if str(path).endswith("images"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", scan)
    args = ["--dataset", "mimgnet", "--source", tmp_path / "in" / "mini", "--data_dir", tmp_path / "data"]
    assert_refused(command(*args), "mini/images: Permission denied")
    assert not leftovers(tmp_path / "data")
