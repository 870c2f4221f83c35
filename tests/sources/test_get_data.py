"""get_data.py as a user meets it: which flags it takes, and how it ends when input or disk fail."""

import argparse
import errno
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import files
import get_data
from conftest import assert_refused
from originals import (
    ROOT,
    command,
    fake_mimgnet,
    fake_omniglot,
    lay,
    leftovers,
    raise_it,
    record_disk,
    replace,
)
from sources import glyphs
from sources.arrays import making

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


@pytest.fixture
def few(monkeypatch):
    """Seven glyphs where there are 150."""
    replace(monkeypatch, glyphs.SPLITS, train=4, val=2, test=1)


def test_refusals_on_the_command_line(tmp_path):
    out = ["--data_dir", tmp_path / "data"]
    for parts in (fake_omniglot(), fake_mimgnet()):
        lay(tmp_path / f"in{len(parts)}", parts, False)
    assert_refused(command("--dataset", "omniglot", "--source", tmp_path / "in10", *out), "3 characters, not 964")
    assert_refused(command("--dataset", "mimgnet", "--source", tmp_path / "in17" / "mini", *out), "2 classes, not 20")
    assert_refused(
        command("--dataset", "mimgnet", "--source", tmp_path / "in10", *out),
        "neither train.csv nor train.npy",
    )
    assert_refused(
        command("--dataset", "omniglot", "--source", tmp_path / "in17", *out), "neither images_background.zip"
    )
    assert_refused(command("--dataset", "omniglot", "--source", tmp_path / "nowhere", *out), "there is no")
    assert_refused(command("--dataset", "mimgnet", "--source", "/dev/null", *out), "there is no folder and no file")
    assert_refused(command("--dataset", "omnigolt", *out), "omnigolt", "--help")
    assert_refused(command("--dataset", "glyphs", "--sed", 3, *out), "--sed")
    assert_refused(command("--dataset", "glyphs", "--verify", *out), "there is no")
    assert not leftovers(tmp_path / "data")


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
            assert_refused(command(*asked, "--data_dir", tmp_path), f"--{flag} is not a flag of")
        elif flag != "verify" or "--source" not in words:  # which --verify does not take
            request = get_data.parse(asked)
            values = {**request.settings.values(), "force": request.force, "verify": request.verify}
            assert values[flag] is True if value is None else str(values[flag]).startswith(value)


def test_the_help_says_each_datasets_own_default():
    said = " ".join(command("--help").stdout.split())
    assert "(default: 28 for omniglot, 32 for cifar_fs, " in said and "84 for your own)" in said  # of --size
    assert "seed of the split, or of the drawings (default: 0)" in said


@pytest.mark.parametrize(
    ("dataset", "flag", "values"),
    [
        ("mimgnet", "timeout", "nan inf -inf 0 -1 1e+300 x"),
        ("mimgnet", "retries", "-1 1001 1.5 nan x"),
        ("mimgnet", "mirror", "nonsense ftp://x file:///x http:// HTTP:/x"),
        ("omniglot", "size", "0 -1 15 106 nan 28.0 x"),
        ("omniglot", "seed", "-1 4294967296 nan x"),
        ("glyphs", "seed", "-1 4294967296 nan x"),
    ],
)
def test_a_mistyped_value_is_refused(tmp_path, dataset, flag, values):
    for value in values.split():
        assert_refused(command("--dataset", dataset, f"--{flag}={value}", "--data_dir", tmp_path), f"--{flag}", value)
    for name in ("source", "data_dir"):
        assert_refused(command("--dataset", "omniglot", f"--{name}="), f"--{name}", "empty")
    assert not leftovers(tmp_path)


def test_a_complete_dataset_is_left_alone(data_dir):
    glyphs = data_dir / "glyphs"
    before = (glyphs / "manifest.json").stat().st_mtime_ns
    again = command("--dataset", "glyphs", "--data_dir", data_dir)
    assert again.returncode == 0 and "is complete" in again.stdout
    assert (glyphs / "manifest.json").stat().st_mtime_ns == before
    assert command("--dataset", "glyphs", "--data_dir", data_dir, "--verify").returncode == 0
    assert_refused(command("--dataset", "glyphs", "--data_dir", data_dir, "--seed", 1), "--seed 0, not 1", "--force")


def test_damage_is_seen_and_mended(tmp_path, few):
    args, folder = ["--dataset", "glyphs", "--data_dir", tmp_path], tmp_path / "glyphs"
    assert command(*args).returncode == 0
    manifest, whole = (folder / "manifest.json").read_text(), (folder / "val.npy").read_bytes()
    (folder / "val.npy").write_bytes(whole[:-1] + b"\x07")
    assert command(*args).returncode == 0  # a look at the sizes only
    assert_refused(command(*args, "--verify"), "val.npy", "checksum")
    (folder / "val.npy").write_bytes(b"")
    assert_refused(command(*args), "val.npy", "--force")
    for field in json.loads(manifest).keys() - {"versions", "created", "prepare"}:
        (folder / "manifest.json").write_text(manifest.replace(f'"{field}"', '"other"'))
        assert_refused(command(*args), "manifest.json is damaged", "--force")
    for text in ("", "[]", "{}", '"x"', manifest.replace('"names"', '"other"'), manifest[:-9]):
        (folder / "manifest.json").write_text(text)
        assert_refused(command(*args), "manifest.json is damaged", "--force")
    assert command(*args, "--force").returncode == 0
    assert (folder / "val.npy").read_bytes() == whole and command(*args, "--verify").returncode == 0


def test_files_of_others_are_never_replaced(tmp_path):
    (tmp_path / "glyphs").mkdir()
    (tmp_path / "glyphs" / "train.npy").write_bytes(b"precious")
    assert_refused(command("--dataset", "glyphs", "--data_dir", tmp_path, "--force"), "did not make")
    assert (tmp_path / "glyphs" / "train.npy").read_bytes() == b"precious"
    (tmp_path / "glyphs" / "train.npy").unlink()
    (tmp_path / "glyphs" / "manifest.json").write_text("{}")
    (tmp_path / "glyphs" / "notes.txt").write_text("precious")
    assert_refused(command("--dataset", "glyphs", "--data_dir", tmp_path, "--force"), "did not make")
    assert (tmp_path / "glyphs" / "notes.txt").read_text() == "precious"
    (tmp_path / "mimgnet").mkdir()
    (tmp_path / "mimgnet" / "train.npy").write_bytes(b"precious")
    source = ["--source", tmp_path / "mimgnet"]
    assert_refused(command("--dataset", "mimgnet", "--data_dir", tmp_path, *source), "would be replaced by the dataset")
    assert (tmp_path / "mimgnet" / "train.npy").read_bytes() == b"precious"


def test_a_link_to_itself_is_a_sentence(tmp_path):
    (tmp_path / "glyphs").symlink_to("glyphs")
    assert_refused(command("--dataset", "glyphs", "--data_dir", tmp_path), "leads back to itself: remove it")
    assert_refused(command("--dataset", "glyphs", "--data_dir", tmp_path / "glyphs"), "cannot write into")
    assert_refused(command("--dataset", "mine", "--data_dir", tmp_path, "--source", tmp_path / "glyphs"), "glyphs")
    assert [file.name for file in tmp_path.iterdir()] == ["glyphs"]


def test_killed_while_it_writes(tmp_path, few):
    """A process that dies between the arrays and the manifest leaves nothing in place or in the way."""
    script = (
        "import os, get_data\n"
        "from sources import glyphs\n"
        "glyphs.SPLITS = {'train': 2, 'test': 1}\n"
        "glyphs.write_manifest = lambda *_, **__: os.kill(os.getpid(), 9)\n"
        f"get_data.main(['--dataset', 'glyphs', '--data_dir', {str(tmp_path)!r}])\n"
    )
    died = subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=False)
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
    assert_refused(command(*args, "--force"), "No space left", "free some space")
    assert command(*args, "--verify").returncode == 0


def test_a_dataset_survives_a_power_cut(tmp_path, few, monkeypatch):
    disk = record_disk(monkeypatch)
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
        assert_refused(command("--dataset", "glyphs", "--data_dir", tmp_path), "is making", "wait for it")


def test_a_system_without_locks(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "fcntl", None)
    assert_refused(command("--dataset", "glyphs", "--data_dir", tmp_path), "Windows", "WSL")


def test_a_full_disk(tmp_path):
    # A limit on the size of a file stands for the full disk: writing stops in the middle in the same way.
    script = (
        "import errors, get_data\n"
        "from sources import glyphs\n"
        "glyphs.SPLITS = {'train': 10, 'test': 1}\n"
        f"errors.run(lambda: get_data.main(['--dataset', 'glyphs', '--data_dir', {str(tmp_path)!r}]))\n"
    )
    limited = ["bash", "-c", 'ulimit -f 100; exec "$0" -c "$1"', sys.executable, script]
    result = subprocess.run(limited, cwd=ROOT, capture_output=True, text=True, check=False)
    assert_refused(result, "File too large", "free some space")
    assert not leftovers(tmp_path)


def test_an_unusable_data_dir(tmp_path):
    (tmp_path / "file").write_text("")
    assert_refused(command("--dataset", "glyphs", "--data_dir", tmp_path / "file"), "cannot write into", "file")
    if os.geteuid():
        (tmp_path / "locked").mkdir(mode=0o500)
        assert_refused(command("--dataset", "glyphs", "--data_dir", tmp_path / "locked"), "Permission denied")


def test_help_says_which_datasets_take_a_flag():
    text = command("--help").stdout
    for names, flag in (("omniglot, mimgnet, your own", "source"), ("omniglot, glyphs", "seed"), ("mimgnet", "mirror")):
        listed = names.replace(", ", r", (?:\w+, )*")  # other datasets may have the flag, too
        assert re.search(rf"^{listed}(?:, \w+)*:\n  --{flag} ", text, re.MULTILINE), flag
    assert all(f"--{flag}" in text for flag in VALUES)
    text = command("--dataset", "mimgnet", "--help").stdout  # whichever way it is made
    assert all(f"\n  --{flag} " in text for flag in ("source", "mirror", "verify")) and "--seed" not in text


def test_another_disks_fault_has_another_remedy(tmp_path, monkeypatch):
    for number, words in (
        (errno.ENOSPC, "free some space"),
        (errno.EDQUOT, "free some space"),
        (errno.EFBIG, "free some space"),
        (errno.EACCES, "check that it exists and may be read and written"),
    ):
        fault = OSError(number, os.strerror(number), "train.npy")
        monkeypatch.setattr(get_data, "obtain", lambda request, fault=fault: raise_it(fault))
        with pytest.raises(get_data.UserError, match=f"train.npy: {os.strerror(number)} .*{words}.*another --data_dir"):
            get_data.main(["--dataset", "glyphs", "--data_dir", str(tmp_path)])


def test_what_a_dataset_was_made_with_is_not_another_flags(tmp_path):
    manifest = {
        "split_seed": 3, "rotations": 4, "image_shape": [28, 28, 1], "shares": [0.6, 0.2, 0.2],
        "prepare": {"size": 28, "channels": 1, "invert": True}, "source": {"given": "", "files": []},
    }  # fmt: skip
    same = {"seed": 3, "split_seed": 3, "rotations": 4, "size": 28, "shares": [0.6, 0.2, 0.2], "channels": 1,
            "invert": True}  # fmt: skip
    get_data.refuse_other_settings(tmp_path, manifest, same)
    get_data.refuse_other_settings(tmp_path, manifest, dict.fromkeys(same))
    other = {"seed": 4, "split_seed": 0, "rotations": 1, "size": 84, "shares": [0.5, 0.3, 0.2], "channels": 3,
             "invert": False}  # fmt: skip
    for name, value in other.items():
        with pytest.raises(get_data.UserError, match=f"has --{name} .*: make it again with --force"):
            get_data.refuse_other_settings(tmp_path, manifest, same | {name: value})
    (table := tmp_path / "split.csv").write_text("class,split\n")
    with pytest.raises(get_data.UserError, match="another --split_file"):
        get_data.refuse_other_settings(tmp_path, manifest, {"split_file": table})


def test_a_split_that_was_given_is_none_of_a_seed(tmp_path):
    """A table of classes, or folders, made it: a seed or shares that are asked for now did not."""
    manifest = {"split_seed": None, "shares": None, "rotations": 1, "image_shape": [28, 28, 1]}
    manifest |= {"source": {"given": "", "files": []}}
    asked = {"split_seed": 7, "shares": [0.5, 0.2, 0.3]}
    get_data.refuse_other_settings(tmp_path / "mine", manifest, asked)  # their defaults
    for name in asked:
        with pytest.raises(get_data.UserError, match=f"not split at random, so --{name} cannot apply"):
            get_data.refuse_other_settings(tmp_path / "mine", manifest, asked, {name, "size"})
    get_data.refuse_other_settings(tmp_path / "mine", manifest | {"split_seed": 7}, {"split_seed": 7}, {"split_seed"})


def test_another_source_is_another_dataset(tmp_path, monkeypatch):
    """The same folder may have several names, and may be named from another working folder."""
    for name in ("a/pictures", "b/pictures", "b/others"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "link").symlink_to("a/pictures")
    monkeypatch.chdir(tmp_path)
    manifest = {"split_seed": 0, "rotations": 1, "image_shape": [28, 28, 1]}
    for given, asked, same in (
        ("a/pictures", tmp_path / "a/pictures", True), ("a/pictures", "link", True),
        ("a/pictures", "b/pictures", False), ("nowhere/pictures", "b/pictures", True),
        ("nowhere/pictures", "b/others", False), ("tensorflow-datasets pets:4.0.0", "tfds:pets", True),
        ("tensorflow-datasets pets/all:4.0.0", "tfds:pets/all", True), ("a/pictures", "tfds:pets", False),
        ("tensorflow-datasets pets/all:4.0.0", "tfds:pets", True),
        ("tensorflow-datasets pets/a:4.0.0", "tfds:pets/b", False),
        ("tensorflow-datasets pets:4", "tfds:pet", False), ("tensorflow-datasets pets:4", "a/pictures", False),
    ):  # fmt: skip
        made, asked = manifest | {"source": {"given": given, "files": []}}, {"source": Path(asked)}
        if same:
            get_data.refuse_other_settings(tmp_path / "mine", made, asked)
        else:
            with pytest.raises(get_data.UserError, match=r"was made from .*: choose another name, or make it again"):
                get_data.refuse_other_settings(tmp_path / "mine", made, asked)
        get_data.refuse_other_settings(tmp_path / "omniglot", made, asked)  # the same data from anywhere


def test_a_dataset_that_another_process_completes_meanwhile_is_not_replaced(tmp_path):
    """So is one that a killed --force had moved away."""
    made = command("--dataset", "glyphs", "--data_dir", tmp_path)
    assert made.returncode == 0, made.stderr
    (tmp_path / "glyphs").rename(tmp_path / ".glyphs.old")
    done = command("--dataset", "glyphs", "--data_dir", tmp_path, "--seed", 5)
    assert_refused(done, "has become complete: give the same command again")
    assert_refused(command("--dataset", "glyphs", "--data_dir", tmp_path, "--seed", 5), "has --seed 0, not 5")


def test_a_source_in_what_is_to_be_replaced_stays(tmp_path):
    (source := tmp_path / "mine" / "pictures").mkdir(parents=True)
    with pytest.raises(get_data.UserError, match="would be replaced by the dataset"):
        get_data.main(["--dataset", "mine", "--source", str(source), "--data_dir", str(tmp_path)])
    assert source.is_dir()


def test_a_split_says_how_many_images_its_classes_have():
    assert get_data.describe({"classes": 12, "base_classes": 3, "images_per_class": 20}) == "12 classes x 20"
    assert get_data.describe({"classes": 3, "images_per_class": [5, 3, 9]}) == "3 classes x 3 to 9"


def test_a_datasets_name_is_a_folder_that_is_seen():
    assert get_data.folder_name("my.own") == "my.own"
    for text in ("", "a/b", "..", ".hidden", "/a"):
        with pytest.raises(argparse.ArgumentTypeError):
            get_data.folder_name(text)
