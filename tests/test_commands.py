"""The commands of README.md, docs/ and the model cards: all have the flags of their programs, and those that can run in
seconds run."""

import json
import re
import shlex
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import bench
import get_data
import main
import plot
import train_jax
from conftest import ROOT, succeed
from training import devices
from training.config import Config

sys.path.append(str(ROOT / "runfiles"))
import measures
import study
import timings

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md"), ROOT / "docs/results/README.md",
         *(ROOT / "pretrained").glob("*.md")]  # fmt: skip
FENCED = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
PROGRAM = re.compile(r"(?:TF_CONFIG='.*?' +)?(?:\.venv/bin/)?(?:python |sh |make |runfiles/\w+\.sh)")


def commands(page: Path) -> list[str]:
    """Return the commands of a page: the lines of its blocks, without comments, and those in its sentences."""
    text = page.read_text()
    lines = []
    for language, block in FENCED.findall(text):
        if not language:
            lines += re.sub(r"\\\n\s*", "", block).splitlines()
    lines += re.findall(r"`([^`\n]+)`", FENCED.sub("", text))
    lines = [re.sub(r"\s+# .*", "", line) for line in lines if PROGRAM.match(line)]
    return [line.replace("--mode MODE", "--mode meta_test") for line in lines]


def code(page: Path) -> list[str]:
    """Return a page's blocks of Python."""
    return [block for language, block in FENCED.findall(page.read_text()) if language == "python"]


# ---- the flags of all commands


def check_flags(words: list[str]) -> None:
    """Read a command's flags as its program does; SystemExit or UserError if the program would refuse them. A training
    leaves its config.json, from which commands on the same savedir take the learner."""
    program, *args = words
    args = [re.sub(r"^[SBN]$", "1", word) for word in args]  # numbers of the reader's choice
    if program == "main.py":
        flags = main.read_command(args)
        if flags["mode"] == "meta_train" and not (savedir := Path(flags["savedir"][0])).is_absolute():
            savedir.mkdir(parents=True, exist_ok=True)
            (savedir / "config.json").write_text(json.dumps(Config.of_flags(flags).to_json()))
    elif program == "get_data.py":
        if "--source" in args and not (source := args[args.index("--source") + 1]).startswith("tfds:"):
            Path(source).mkdir(parents=True, exist_ok=True)
        if "--features" in args:
            Path(args[args.index("--features") + 1]).touch()
        get_data.parse(args)
    elif program == "plot.py":
        plot.check_flags(plot.parser().parse_args(args))
    elif program == "bench.py":
        bench.read_command(args)
    elif program == "train_jax.py":
        train_jax.parser().parse_args(args)
    elif program == "runfiles/study.py":
        check_study(args)
    elif program == "runfiles/timings.py":
        assert set(args) <= set(timings.SETS)
    elif program == "runfiles/measures.py":
        measures.read_command(args)
    else:
        assert (ROOT / program).exists(), program


def check_study(args: list[str]) -> None:
    """Read the flags of a study; AssertionError if there is no such study, table or figure."""
    end = args.index("--") if "--" in args else len(args)
    given = study.parser().parse_intermixed_args(args[:end])
    if given.name in (None, "docs", "NAME"):
        return
    one = study.with_flags(study.STUDIES[given.name], args[end + 1 :])
    shown = {"table": one.tables, "cell": one.tables, "figure": one.figures}.get(given.action, {})
    assert set(given.what[:1]) <= shown.keys(), (given.name, given.what)


def split(command: str) -> list[str]:
    """Return a command's words without variables of the environment and the interpreter."""
    words = shlex.split(command)
    while "=" in words[0]:
        del words[0]
    return words if words[0] in ("make", "sh") or words[0].endswith(".sh") else words[1:]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_has_the_flags_of_its_program(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pretrained").symlink_to(ROOT / "pretrained")
    targets = re.findall(r"^([\w.-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for command in commands(page):
        words = split(command)
        if words[0] == "make":
            assert {word for word in words[1:] if "=" not in word} <= set(targets), command
        elif words[0] == "sh" or words[0].endswith(".sh"):
            assert (ROOT / words[words[0] == "sh"]).exists(), command
        elif words and words[0] != "-m":
            try:
                check_flags(words)
            except SystemExit as left:
                assert not left.code, command


# ---- the commands that can run in seconds

SLOW = r"--backbone|results/mini|results/photos|--mode draw"
NOT_HERE = r"--dataset (omniglot|mimgnet|cifar_fs|cub|eurosat|flowers)"  # get_data.py would download them
SHORT = {
    "meta_train": "--n_train_iters 1 --val_every 0",
    "meta_test": "--n_test_iters 2",
    "collapse": "--n_test_iters 2",
    "attack": "--n_test_iters 2 --attack_steps 1 --metabatch 1",
    "export": "--export_tasks 1",
}


def shortened(words: list[str]) -> list[str]:
    """Return a command of main.py with flags that make it take seconds; a later flag counts."""
    mode = words[words.index("--mode") + 1] if "--mode" in words else "meta_train"
    flags = SHORT.get(mode, "").split()
    if mode == "meta_train" and "--weights" not in words:
        flags += ["--channels", "4"] + ["--n_steps", "1"] * ("baseline" not in words)
    return [*words, *flags]


@pytest.fixture(scope="module")
def here(tmp_path_factory, data_dir):
    """Return a folder with what the pages' commands take: data (glyphs in Omniglot's place), weights, pictures."""
    here = tmp_path_factory.mktemp("here")
    (here / "data").mkdir()
    (here / "data/glyphs").symlink_to(data_dir / "glyphs")
    succeed("get_data.py", "--dataset", "glyphs", "--seed", 1, "--data_dir", here / "other")
    shutil.move(here / "other/glyphs", here / "data/omniglot")
    shutil.copytree(ROOT / "pretrained", here / "pretrained")
    task = "--dataset omniglot --way 5 --shot 1 --query 15 --channels 4 --n_steps 1 --n_train_iters 0 --val_every 0"
    for model in ("maml", "metadrop"):
        run = here / "made" / model
        flags = "--data_dir", here / "data", "--savedir", run
        for words in (["--model", model, *task.split(), *flags], ["--mode", "weights", "--savedir", run]):
            succeed("main.py", *words)
        shutil.copy(run / "weights.npz", here / f"pretrained/omniglot_5way_1shot_{model}.npz")
    characters = np.load(here / "data/glyphs/test.npy")[:12, :8, :, :, 0]
    for kind, classes, drawings in (("many", 12, 8), ("DIR", 4, 2), ("DIR2", 2, 1)):
        for number, drawn in enumerate(characters[:classes]):
            folder = here / kind / f"class{number}"
            folder.mkdir(parents=True)
            for place, pixels in enumerate(drawn[:drawings]):
                Image.fromarray(255 - pixels).save(folder / f"{place}.png")
    labels = np.repeat(np.arange(12), 8)
    np.savez(here / "features.npz", features=np.random.RandomState(0).randn(96, 5), labels=labels)
    return here


@pytest.fixture
def checkout(here, tmp_path, monkeypatch):
    """Work in a copy of that folder; return it."""
    shutil.copytree(here, place := tmp_path / "checkout", symlinks=True)
    monkeypatch.chdir(place)
    return place


@pytest.mark.parametrize("name", ["README.md", "docs/runs.md", "docs/methods.md", "docs/data.md", "docs/classify.md"])
def test_the_commands_of_a_page_run_one_after_the_other(name, checkout):
    """In its order, with fewer iterations, episodes and channels, and glyphs in Omniglot's place. Other pages than
    README.md find the runs that it makes."""
    if name != "README.md":
        shutil.copytree("made/metadrop", "results/first")
        shutil.copytree("made/maml", "results/shipped")
    if name == "docs/data.md":
        shutil.rmtree("DIR")
        (checkout / "many").rename("DIR")
    ran = []
    for command in commands(ROOT / name):
        words = split(command)
        if words[0] not in ("main.py", "get_data.py", "plot.py", "runfiles/study.py") or re.search(SLOW, command):
            continue
        if (words[0] == "get_data.py" and re.search(NOT_HERE, command)) or re.search("NAME|FILE", command):
            continue
        if words[0] == "runfiles/study.py" and not {"table", "cell", "figure"} & set(words[1:]) and len(words) > 1:
            continue
        succeed(words[0], *(shortened(words[1:]) if words[0] == "main.py" else words[1:]))
        ran.append(command)
    assert len(ran) >= {"README.md": 11, "docs/runs.md": 7, "docs/methods.md": 6, "docs/data.md": 4}.get(name, 1)


@pytest.mark.parametrize("name", ["README.md", "docs/classify.md"])
def test_the_python_of_a_page_runs(name, checkout, monkeypatch):
    """With fewer iterations and episodes."""
    monkeypatch.setattr(devices, "set_threads", lambda *_: None)
    pictures = sorted((checkout / "DIR").rglob("*.png"))
    for file, picture in zip(("a/1", "a/2", "b/1", "x", "y"), pictures, strict=False):
        Path(f"{file}.png").parent.mkdir(exist_ok=True)
        shutil.copy(picture, f"{file}.png")
    Path("labels.csv").write_text("file,label\na/1.png,a\nb/1.png,b\n")
    names = {"support_files": ["a/1.png", "b/1.png"], "labels": ["a", "b"], "query_files": ["x.png"]}
    blocks = code(ROOT / name)
    assert len(blocks) >= 2
    for block in blocks:
        exec(compile(re.sub(r"\b100\b", "2", block), name, "exec"), names)
    assert set(names["classifier"].predict(["x.png", "y.png"])) <= {"a", "b"}
