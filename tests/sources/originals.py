"""Small originals of every kind, and get_data.py's command line run in this process: what several tests share."""

import io
import json
import os
import subprocess
import tarfile
import zipfile
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import get_data
from errors import run

ROOT = Path(__file__).resolve().parents[2]
PARTS = {"images_background": 3, "images_evaluation": 2}  # of fake_omniglot: part -> characters
CLASSES = {"train": 3, "val": 2, "test": 2}  # of fake_mimgnet: split -> classes
AUTHORS = {"train": (5, 4, 6, 6, 3), "test": (3, 4, 6, 6, 3)}  # of authors_arrays: split -> shape
SHAPE = (1000, 500)


def command(*args):
    """The program, in this process, which saves its start; an exception that would be a traceback passes through."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as end:
        run(lambda: get_data.main([str(arg) for arg in args]))
    return subprocess.CompletedProcess(args, end.value.code or 0, out.getvalue(), err.getvalue())


def raise_it(fault):
    raise fault


def replace(monkeypatch, table, **entries):
    """Other entries in a module's table, which is a default argument too."""
    for key, value in entries.items():
        monkeypatch.setitem(table, key, value)


def npy(array):
    """The bytes of an .npy file."""
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


BODY = npy(np.random.RandomState(0).randint(0, 256, SHAPE, np.uint8))


def record_disk(monkeypatch):
    """What is asked of the disk from now on, in order: ("sync", inode, bytes) and ("rename", the new path)."""
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


def leftovers(folder):
    """What a later run could take for a dataset, or a half of one."""
    return [path for path in folder.rglob("*") if path.suffix == ".npy" or path.name == "manifest.json"]


def touch(root, *names):
    """Write files that are no pictures, whatever their names say."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")


def manifest_of(data_dir, name="mine"):
    """Read the manifest of a dataset."""
    return json.loads((data_dir / name / "manifest.json").read_text())


def png(number):
    """The bytes of a drawing of 105 x 105 pixels."""
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
    """Write files (name -> bytes) into a new folder, or into a zip for each of the names' first parts."""
    folder.mkdir(parents=True)
    for name, data in files.items():
        if zipped:
            with zipfile.ZipFile(folder / f"{name.split('/')[0]}.zip", "a") as archive:
                archive.writestr(name, data)
        else:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)
    return folder


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
    """Write files (name -> bytes) into a tar."""
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def authors_arrays(kind=np.float64, scale=1.0):
    """split -> array of pixels, with axes merged as the authors have them."""
    random = np.random.RandomState(0)
    return {split: (random.randint(0, 256, (*shape[:2], 108)) * scale).astype(kind) for split, shape in AUTHORS.items()}
