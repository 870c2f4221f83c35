"""runfiles/study.py: what a study makes, round by round; its command line; and a real run of the glyphs."""

import json
import os
import shutil
from dataclasses import replace
from unittest import mock

import pytest
import study
from catalogue import STUDIES
from outcomes import config_of
from records import FAILURE, keep, read_kept, read_savedir, this_machine

import files
import main
from conftest import assert_refused, call, cli, flags_of, succeed
from files import parse_json
from study_runs import SMALL, cells, curve, made, with_result, write
from training.config import Config

HERE = f"CPU, 1 core of {this_machine()}"


@pytest.fixture
def laboratory(monkeypatch, tmp_path):
    """laboratory(NAME, *words): call study.py with kept files and runs in tmp_path, where `make` invents the runs.

    laboratory.made: the commands of each round, by savedir. laboratory.stop: the round that is interrupted.
    laboratory.fails: the name of a run whose training fails.
    """

    class Laboratory:
        made, stop, fails = [], None, None

        def __call__(self, *words):
            words = [*words]
            words[1:1] = ["--results", tmp_path / "results", "--kept", tmp_path / "kept"]
            return call("runfiles/study.py", *words)

        def make(self, jobs, number, data_dir, title):
            self.made.append({job.savedir.name: [" ".join(words) for words in job.commands] for job in jobs})
            failed = [job.savedir for job in jobs if job.savedir.name == self.fails]
            for job in jobs:
                for words in job.commands if job.savedir not in failed else job.commands[:1]:
                    invent(job.savedir, words, len(self.made) if job.savedir in failed else None)
            return len(self.made) != self.stop, failed

    found = Laboratory()
    monkeypatch.setattr(study, "make", found.make)
    monkeypatch.setattr(study.data, "load", lambda *_: mock.Mock(sha256="d"))
    monkeypatch.setitem(STUDIES, "small", SMALL)
    return found


def invent(savedir, words, fails_after: int | None = None) -> None:
    """Do what main.py does, with invented numbers: validation accuracy falls with the strength of VIB. fails_after: the
    iteration after which the training fails."""
    flags = main.read_command([*words, "--savedir", str(savedir)])
    if flags["mode"] == "meta_train":
        config = Config.of_flags(flags).to_json()
        facts = {"data_sha256": "d", "sessions": [{"device": HERE, "time": "2026"}]}
        validation = 0.9 - 10 * config.get("vib_beta", 0)
        run = curve(fails_after or config["n_train_iters"], validation=validation)
        write(made(SMALL, "maml", config=config | facts, curve=run), savedir)
        if fails_after:
            (savedir / FAILURE).write_text("it diverged")
    elif "weights" in flags:
        savedir.mkdir(parents=True)
        shutil.copy(flags["weights"][0], savedir / "start.npz")
        (savedir / "config.json").write_text(json.dumps(config_of(f"--weights {flags['weights'][0]}").to_json()))
    if flags["mode"] != "meta_train":
        kinds = {"attack": [[len(savedir.name)] * 2] * len(flags.get("eps", [0] * 6))}
        record = read_savedir(savedir)
        flags = [word for word in words if word not in ("--weights", *map(str, flags.get("weights", [])))]
        write(with_result(record, " ".join(flags), kinds.get(flags[1], [len(savedir.name)] * 2)), savedir)


def test_a_study_is_made_in_rounds_and_kept(laboratory, tmp_path):
    """The first seed trains all values; the chosen one is tested and trained with the other seed. Attacks come after
    the run whose gradients they take. What is made is not made again, even if only the kept results are left."""
    done = laboratory("small")
    assert done.returncode == 0, done.stderr
    assert [{name: len(commands) for name, commands in one.items()} for one in laboratory.made] == [
        {"maml_0": 2, "metadrop_0": 2, "vib-1e-3_0": 1, "vib-1e-2_0": 1, "maml_1": 2, "metadrop_1": 3},
        {"maml_0": 1, "metadrop_0": 1, "vib-1e-3_0": 1, "maml_1": 1, "metadrop_1": 1, "vib-1e-3_1": 2},
    ]
    place = tmp_path / "results/small/metadrop_0"
    assert laboratory.made[1]["maml_0"] == [f"--mode attack --n_test_iters 2 --eps 0.1 --surrogate {place}"]
    kept = read_kept(tmp_path / "kept/small.jsonl.xz")
    assert len(kept) == 7 and sum(len(record.results) for record in kept) == 6 + 1 + 2 + 2
    shutil.rmtree(tmp_path / "results")
    assert laboratory("small").returncode == 0 and len(laboratory.made) == 2


def test_an_interrupted_study_keeps_what_it_has_and_goes_on(laboratory, tmp_path):
    laboratory.stop = 1
    done = laboratory("small", "--seeds", "1")
    assert done.returncode == 130 and "the same command resumes them" in done.stderr
    assert len(read_kept(tmp_path / "kept/small.jsonl.xz")) == 2 and set(laboratory.made[0]) == {"maml_1", "metadrop_1"}
    assert laboratory("small", "--seeds", "1").returncode == 0
    assert laboratory.made[1:] == [
        {"maml_1": laboratory.made[1]["maml_1"], "metadrop_1": laboratory.made[1]["metadrop_1"]}
    ]


def test_values_with_which_a_training_fails_are_not_chosen_and_the_rest_is_made(laboratory, tmp_path):
    """The choice stands in the kept results; the run that failed is tried again by the next command, and only then."""
    laboratory.fails = "vib-1e-3_0"
    done = laboratory("small")
    assert done.returncode == 2 and "1 runs failed: see study.log in " in done.stderr and "vib-1e-3_0" in done.stderr
    assert [name for one in laboratory.made for name in one].count("vib-1e-3_0") == 1
    assert {"vib-1e-2_0", "vib-1e-2_1"} <= set(laboratory.made[1])
    shutil.rmtree(tmp_path / "results")
    laboratory.made.clear()
    assert laboratory("small").returncode == 2 and [set(one) for one in laboratory.made] == [{"vib-1e-3_0"}]


def test_two_studies_do_not_make_runs_in_one_folder(laboratory, tmp_path):
    with files.locked(tmp_path / "results" / study.LOCK, ""):
        assert_refused(laboratory("small"), "makes runs in", "wait for it, or choose other --results")
    assert not laboratory.made


def test_the_data_of_trained_weights_are_not_those_that_runs_are_trained_on(laboratory):
    """Drawings are measured on Omniglot at its original size, which has another digest."""
    args = mock.Mock(data_dir="data")
    assert study.present(STUDIES["drawings"], args) == {} and study.present(SMALL, args) == {"omniglot": "d"}


def test_results_that_are_no_longer_kept_are_counted(laboratory, tmp_path, monkeypatch):
    assert laboratory("small").returncode == 0
    monkeypatch.setitem(STUDIES, "small", replace(SMALL, tests={"test": SMALL.tests["test"]}))
    assert "5 results fewer than before, which git has" in laboratory("small", "keep").stdout


def test_a_run_that_was_made_and_is_still_missing_is_a_defect(laboratory, monkeypatch):
    monkeypatch.setattr(study, "make", lambda *_: (True, []))
    with pytest.raises(RuntimeError, match="maml_0 was made, and is still missing: "):
        laboratory("small")


def test_a_dataset_that_is_missing_is_one_sentence_before_any_run(tmp_path, monkeypatch):
    monkeypatch.setattr(study, "make", None)
    words = ["--results", tmp_path, "--kept", tmp_path, "--data_dir", tmp_path]
    assert_refused(call("runfiles/study.py", "five_shot", *words), "there is no dataset in", "--dataset omniglot")


def test_flags_reach_the_trainings_and_tests_that_know_them(laboratory, tmp_path):
    """Runs of other flags are not those of the study: they stay in results/, and the kept file is left as it is."""
    assert laboratory("small").returncode == 0
    kept, (first, *_) = (tmp_path / "kept/small.jsonl.xz").read_bytes(), laboratory.made
    words = ["--", "--n_train_iters", "700", "--restarts", "2", "--gpu_id", "-1", "--save_freq", "7", "--eps", "0.3"]
    laboratory.made.clear()
    before = {path: path.read_bytes() for path in tmp_path.glob("results/small/*_?/config.json")}
    assert laboratory("small", *words).returncode == 0
    assert len(before) == 7 and all(path.read_bytes() == content for path, content in before.items())
    train, test = laboratory.made[0]["maml_0"]
    assert [train, test] == [
        f"{first['maml_0'][0].replace(' --seed', ' --n_train_iters 700 --gpu_id -1 --save_freq 7 --seed')}",
        f"{first['maml_0'][1]} --gpu_id -1",
    ]
    assert laboratory.made[0]["metadrop_1"][2].endswith("--eps 0.1 --restarts 2 --gpu_id -1 --eps 0.3")
    assert (tmp_path / "results/small/n_train_iters_700_restarts_2_gpu_id_1_save_freq_7_eps_0.3/maml_0").is_dir()
    assert (tmp_path / "kept/small.jsonl.xz").read_bytes() == kept


def test_flags_replace_those_that_a_run_has_and_leave_the_others_alone():
    masks = study.with_flags(STUDIES["masks"], ["--n_train_iters", "10", "--mask_rates", "0.1,0.1,0.1"])
    maml, masked = (config_of(masks.training(name, 0, {})) for name in ("embedding", "embedding_mask"))
    assert maml.training.n_train_iters == masked.training.n_train_iters == 10
    assert list(masked.perturbation.mask_rates) == [0.1, 0.1, 0.1]


def test_results_that_are_there_are_kept_even_if_nothing_is_missing(laboratory, tmp_path):
    assert laboratory("small").returncode == 0
    (tmp_path / "kept/small.jsonl.xz").unlink()
    laboratory.made.clear()
    assert laboratory("small").returncode == 0 and not laboratory.made
    assert len(read_kept(tmp_path / "kept/small.jsonl.xz")) == 7


def test_a_radius_that_was_not_attacked_is_an_empty_cell(laboratory, tmp_path):
    record = made(STUDIES["robustness"], "maml", 0)
    flags = STUDIES["robustness"].tests["joint"].flags
    write(with_result(record, f"{flags} --eps 0.06", [[40, 60]]), tmp_path / "results/any")
    done = laboratory("robustness", "table", "linf", "--", "--eps", "0.06")
    assert done.returncode == 0, done.stderr
    assert cells(done.stdout)[1][:5] == ["MAML", "1", "", "50.00", ""]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["smal"], "there is no study smal: choose one of"),
        (["small", "tabel"], "invalid choice: 'tabel'"),
        (["small", "--sedes", "1"], "unrecognized arguments: --sedes 1"),
        (["small", "--seeds", "-1"], "--seeds"),
        (["small", "--jobs", "0"], "--jobs"),
        (["gradients", "table", "accuracy"], "gradients has no table accuracy: choose one of pairs"),
        (["gradients", "table"], "there are no results of gradients yet: python runfiles/study.py gradients"),
        (["gradients", "cell", "pairs", "row"], "a cell has a table, a row and a column"),
        (["gradients", "cell"], "a cell has a table, a row and a column"),
        (["gradients", "figure"], "--out is missing"),
        (["gradients", "figure", "pairs", "--out", "f.png"], "gradients has no figure pairs: choose one of curves"),
        (["rates", "figure", "--out", "f.png"], "rates has no figure"),
        (["gradients", "table", "--", "--n_trane_iters", "5"], "--n_trane_iters 5 is no flag of the trainings"),
        (["gradients", "--", "5"], "5 is no flag of the trainings and tests of gradients"),
        (["small", "--", "--vib_beta", "1e-5"], "--vib_beta 1e-5 after -- cannot change what small sets itself"),
        (["small", "--", "--data_dir", "d"], "--data_dir d after -- cannot change"),
        (["small", "--seeds", "0", "7"], "small has no run with the seed 7"),
        (["table1"], "the runs of table1 are made by scripts, runfiles/*.sh: start those"),
        (["gradients", "--", "--way", "one"], "--way one is no flag"),
    ],
)  # fmt: skip
def test_a_mistyped_command_is_one_sentence(words, sentence, laboratory):
    assert_refused(laboratory(*words), sentence)
    assert not laboratory.made


def test_results_are_shown_where_there_are_some(laboratory, tmp_path):
    """A table, a cell and a figure; a row and a column that are not there are a sentence."""
    for name, accuracy in (("maml", 50), ("metadrop", 60)):
        write(made(STUDIES["gradients"], name, 0, [accuracy, accuracy]), tmp_path / "results/any" / name)
    done = laboratory("gradients", "table")
    assert cells(done.stdout)[1] == [
        "published",
        "1",
        "MAML 50.00",
        "Meta-dropout 60.00",
        "+10.00",
        "+10.00 ± 0.00",
        "",
    ]
    assert laboratory("gradients", "cell", "pairs", "published", "difference").stdout == "+10.00\n"
    assert_refused(laboratory("gradients", "cell", "pairs", "exact", "difference"), "there is no row 'exact'")
    assert_refused(laboratory("gradients", "cell", "pairs", "published", "x"), "with a column 'x'")
    done = laboratory("gradients", "figure", "--out", tmp_path / "f.pdf")
    assert done.returncode == 0 and (tmp_path / "f.pdf").read_bytes().startswith(b"%PDF"), done.stderr
    assert_refused(laboratory("gradients", "figure", "--out", tmp_path / "f.text"), "f.text", "png")
    assert laboratory("gradients", "keep").returncode == 0
    assert len(read_kept(tmp_path / "kept/gradients.jsonl.xz")) == 2
    theirs = tmp_path / "theirs.jsonl.xz"
    keep(theirs, [made(STUDIES["gradients"], "maml", 1, [70, 70])])
    assert laboratory("gradients", "keep", theirs).returncode == 0
    assert len(read_kept(tmp_path / "kept/gradients.jsonl.xz")) == 3
    assert_refused(laboratory("gradients", "keep", tmp_path / "none"), "there is no", "none: name kept files")
    shutil.rmtree(tmp_path / "results")
    assert "+10.00" in laboratory("gradients", "table").stdout


def test_without_a_name_the_studies_are_listed():
    done = succeed("runfiles/study.py")
    assert [line.split(":")[0] for line in done.stdout.splitlines()] == [*STUDIES]


def test_a_reader_that_has_enough_is_no_fault_and_a_full_disk_is_one_sentence():
    buffered = os.environ | {"PYTHONUNBUFFERED": ""}  # a few lines: they are still there when main() is done
    reader, writer = os.pipe()
    os.close(reader)
    done = cli("runfiles/study.py", stdout=writer, env=buffered)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")
    if os.path.exists("/dev/full"):
        with open("/dev/full", "w") as full:
            done = cli("runfiles/study.py", stdout=full, env=buffered)
        said = "error: cannot read or write the disk: No space left on device: free some space\n"
        assert (done.returncode, done.stderr) == (2, said)


TINY = {"n_train_iters": 2, "val_every": 2, "n_val_tasks": 2, "n_test_iters": 2, "n_test_mc_samp": 1}
TINY |= {"dataset": "glyphs", "way": 3, "query": 2, "metabatch": 2, "channels": 4, "n_steps": 1, "gpu_id": "-1"}


@pytest.mark.slow
def test_the_glyphs_are_trained_tested_shown_and_kept(data_dir, tmp_path, monkeypatch):
    """A real run, from another folder, with small flags. What is there is not made again."""
    monkeypatch.chdir(tmp_path)
    words = [
        "--seeds",
        "0",
        "--results",
        "r",
        "--kept",
        "k",
        "--data_dir",
        os.path.relpath(data_dir),
        "--",
        *flags_of(TINY),
    ]
    done = succeed("runfiles/study.py", "five_shot", *words)
    head, row = cells(done.stdout)
    assert row[:2] == ["5-shot, published", "1"] and len(head) == len(row)
    tests = [
        parse_json(next(tmp_path.glob(f"r/five_shot/*/{name}_0/meta_test.json")).read_bytes())
        for name in ("maml", "metadrop")
    ]
    assert all(f"{test['accuracy']:.2f}" in cell for test, cell in zip(tests, row[2:4], strict=True))
    logs = {path: path.read_bytes() for path in tmp_path.glob("r/five_shot/*/*/study.log")}
    again = call("runfiles/study.py", "five_shot", *words)
    assert len(logs) == 2 and again.stdout in done.stdout and cells(again.stdout) == [head, row]
    assert {path: path.read_bytes() for path in logs} == logs and not (tmp_path / "k").exists()
