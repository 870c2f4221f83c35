"""What a study finds among records, what the validation classes choose, and what is still to be made."""

import itertools
from dataclasses import replace
from pathlib import Path

import pytest
from catalogue import Run, table1
from catalogue import Test as Asked
from outcomes import Outcome, find_result, here, last_validation, outcomes
from records import this_machine

from conftest import ROOT
from study_runs import CHIP, OTHER_CHIP, SMALL, curve, made, shown, with_result
from training.weights import read as read_file

HERE = f"CPU, 64 cores of {this_machine()}"
DROP, TEST = "metadrop", SMALL.tests["test"].flags
ATTACK = SMALL.tests["joint"].flags


# ---- what is found


@pytest.mark.parametrize("other", [{"device": OTHER_CHIP}, {"data": "e"}])
def test_runs_of_other_machines_or_data_are_never_paired(other):
    """There is a set for each, that with most results first; none without results."""
    records = [made(SMALL, "maml", 0, [1]), made(SMALL, DROP, 0, [2], **other), made(SMALL, DROP, 1, [3], **other)]
    first, second = outcomes(SMALL, records)
    assert {name: list(runs) for name, runs in first.runs.items()} == {"maml": [], DROP: [0, 1], "vib": []}
    assert {name: list(runs) for name, runs in second.runs.items()} == {"maml": [0], DROP: [], "vib": []}
    assert outcomes(SMALL, [made(SMALL, "maml")]) == []
    same = [made(SMALL, "maml", 0, [1]), made(SMALL, DROP, 0, [2], device=CHIP.replace("2 cores", "1 core"))]
    assert all(0 in shown(SMALL, same).results(name) for name in ("maml", DROP))


SAME = {"gpu_id": "1", "jit": "on", "save_freq": 7, "data_dir": "e", "collapse_every": 7}
OTHER = {
    "n_test_mc_samp": 7,  # of validations
    "inner_lr": 0.2,
    "n_train_iters": 700,
    "seed": 1,
    "meta_gradient": "exact",
    "val_every": 1,
    "model": "metadrop",
}


@pytest.mark.parametrize("name", [*SAME, *OTHER])
def test_a_run_is_found_by_its_settings(name):
    outcome = Outcome(SMALL, [made(SMALL, "maml", config={name: (SAME | OTHER)[name]})], "A chip")
    assert (outcome.find("maml", 0, {}) is not None) == (name in SAME) == (0 in outcome.runs["maml"])


def test_a_run_that_is_not_complete_is_not_shown():
    """A study of unfinished runs shows it, whichever number of iterations it is to have."""
    record = made(SMALL, "maml", 0, [1], curve=curve(750))
    outcome = Outcome(SMALL, [record], "A chip")
    assert outcome.find("maml", 0, {}) == record and not outcome.runs["maml"] and not outcome.of_study()
    unfinished = replace(SMALL, unfinished=True)
    assert shown(unfinished, [record]).runs["maml"] == {0: record}
    further = made(SMALL, "maml", 0, [1], config={"n_train_iters": 900, "val_every": 600, "n_val_tasks": 7})
    assert shown(unfinished, [further]).runs["maml"] == {0: further}


FLAGS = ("n_test_iters 5", "n_test_mc_samp 4", "checkpoint best", "shot 2", "query 2", "precision bf16", "seed 9")
ATTACKS = (
    "attack_method square", "norm l2", "eps 0.2", "attack_steps 39", "attack_step 0.1", "restarts 2", "surrogate d",
    "attack_start clean", "threat single", "threat remaining", "attack_loss margin",
)  # fmt: skip


@pytest.mark.parametrize(
    ("asked", "flags", "same"),
    [
        *((TEST, f"--{flags}", False) for flags in (*FLAGS, "mode collapse")),
        *((ATTACK, f"--{flags}", False) for flags in (*FLAGS, *ATTACKS)),
        *((asked, flags, True) for asked in (TEST, ATTACK) for flags in ("", "--metabatch 3 --gpu_id 1")),
        (f"{TEST} --shot 2 --query 2 --precision tf32 --checkpoint best", "", True),
        (f"{ATTACK} --norm l1 --attack_steps 7 --restarts 3", "", True),
        (f"{ATTACK} --surrogate {{other}}", "", True),
        (f"{ATTACK} --surrogate {{other}}", "--surrogate_draws 4", False),
        (f"{ATTACK} --surrogate {{self}} --surrogate_draws 4", "", True),
    ],
)
def test_a_test_is_found_by_its_flags(asked, flags, same):
    """The run's own flags are overridden by those that the test was made with."""
    record = with_result(
        made(SMALL, DROP, 1), f"{asked} {flags}", [[1], [2]] if "attack" in f"{asked} {flags}" else [1]
    )
    assert (find_result(Asked(asked), record) is not None) == same


def test_samples_matter_to_a_learner_with_noise_alone_and_data_to_all():
    assert find_result(Asked(TEST), with_result(made(SMALL, "maml"), f"{TEST} --n_test_mc_samp 4", [1]))
    result = with_result(made(SMALL, "maml"), TEST, [1]).results[0]
    for found, settings in ((True, {"data_sha256": "d"}), (False, {"data_sha256": "e"})):
        of_data = result | {"settings": result["settings"] | settings}
        assert bool(find_result(Asked(TEST), replace(made(SMALL, "maml"), results=[of_data]))) == found
    older = {"mode": "meta_test", "settings": {}, "accuracy": 1}  # which does not say
    assert find_result(Asked(TEST), replace(made(SMALL, "maml"), results=[older])) == older


def test_a_test_on_another_dataset_is_found_by_its_name():
    record, across = made(SMALL, "maml"), f"{TEST} --dataset mimgnet --across"
    tested = with_result(record, across, [1])
    assert find_result(Asked(across), tested) and not find_result(Asked(TEST), tested)
    assert not find_result(Asked(f"{TEST} --dataset glyphs --across"), tested)
    assert not find_result(Asked(across), with_result(record, TEST, [1]))
    older = replace(record, results=[{"mode": "meta_test", "settings": {}, "accuracy": 1}])  # before there was --across
    assert not find_result(Asked(across), older)


def test_an_attack_of_an_earlier_version_has_its_own_test():
    flags = "--mode attack --attack_method square --eps 0.1"
    new = with_result(made(SMALL, DROP), flags, [[1]])
    settings = new.results[0]["settings"]
    attack = {name: value for name, value in settings["attack"].items() if name != "square_share"}
    old = replace(new, results=[new.results[0] | {"settings": settings | {"attack": attack}}])
    for record, test, found in (
        (new, Asked(flags), True), (old, Asked(flags), False), (old, Asked(flags, earlier=("square_share",)), True),
        (new, Asked(flags, earlier=("square_share",)), False), (old, Asked(flags, earlier=("steps",)), False),
    ):  # fmt: skip
        assert bool(find_result(test, record)) == found
    assert not Asked(flags, earlier=("square_share",)).is_of(DROP, 0) and Asked(flags).is_of(DROP, 0)


def test_of_several_results_the_latest_counts():
    """The iteration counts, and then the time; not the order in which they are found."""
    record = made(SMALL, "maml", 0, [5], iteration=800, provenance={"time": "2026-02-01"})
    for accuracy, iteration, day in ((6, 900, "01"), (7, 900, "02"), (8, 900, "01"), (9, 850, "03")):
        record = with_result(record, TEST, [accuracy], iteration=iteration, provenance={"time": f"2026-01-{day}"})
    assert find_result(Asked(TEST), record)["accuracy"] == 7


def test_the_kept_records_are_those_of_the_study_with_the_results_of_its_tests():
    """Those of values that were not chosen are kept, too."""
    other = made(SMALL, "maml", 5, [1])
    more = with_result(made(SMALL, "maml", 1, [2]), f"{TEST} --n_test_iters 9", [3])
    tried = made(SMALL, "vib", values={"vib_beta": "1e-3"})
    kept = shown(SMALL, [other, more, tried]).of_study()
    assert [(record.config["seed"], len(record.results)) for record in kept] == [(0, 0), (1, 1)]


def test_of_two_trainings_the_complete_one_with_more_results_is_shown():
    """A new training does not hide the tests of an earlier one before it has them all."""
    old, new = (made(SMALL, "maml", 0, [50 + month], time=f"2026-0{month}-01") for month in (1, 2))
    assert shown(SMALL, [old, new]).runs["maml"][0] == shown(SMALL, [new, old]).runs["maml"][0] == new
    untested = replace(new, results=[])
    assert shown(SMALL, [old, untested]).runs["maml"][0] == shown(SMALL, [untested, old]).runs["maml"][0] == old
    new = replace(new, curve=curve(750))
    assert shown(SMALL, [old, new]).runs["maml"][0] == shown(SMALL, [new, old]).runs["maml"][0] == old


def test_a_test_in_the_midst_of_the_training_is_not_that_of_the_run():
    early = made(SMALL, "maml", 0, [50], iteration=400)
    assert find_result(Asked(TEST), early) is None
    assert find_result(Asked(TEST), replace(early, curve=curve(750)))  # it goes on
    best = with_result(made(SMALL, "maml"), f"{TEST} --checkpoint best", [50], iteration=400)
    assert find_result(Asked(f"{TEST} --checkpoint best"), best)


# ---- the choice by the validation classes


def of_vib(beta, seed=0, **more):
    return made(SMALL, "vib", seed, values={"vib_beta": beta}, **more)


def test_the_last_validation_after_the_first_update_is_told_in_percent():
    assert last_validation(made(SMALL, "maml", curve=curve(800, validation=0.625, first=0.9))) == (62.5, 1)
    assert last_validation(made(SMALL, "maml", curve=curve(800, validation=None))) is None
    assert last_validation(made(SMALL, "maml", curve={})) is None is last_validation(None)


def test_the_validation_classes_choose_when_all_values_are_trained():
    worse, better = of_vib("1e-3", curve=curve(800, validation=0.8)), of_vib("1e-2", curve=curve(800, validation=0.9))
    for records in ([worse], [better], [worse, of_vib("1e-2", curve=curve(750))], [worse, of_vib("1e-2", 1)]):
        assert Outcome(SMALL, records, "").chosen == {"maml": {}, DROP: {}, "vib": None}
    outcome = Outcome(SMALL, [worse, better, of_vib("1e-2", 1), of_vib("1e-3", 1)], "")
    assert outcome.chosen["vib"] == {"vib_beta": "1e-2"} and set(outcome.runs["vib"]) == {0, 1}
    assert all(run.config["vib_beta"] == 0.01 for run in outcome.runs["vib"].values())
    assert outcome.validations["vib"] == {("1e-3",): (80, 1), ("1e-2",): (90, 1)}
    wider = curve(800)
    wider["val_ci95"] = [9 * one if one else one for one in wider["val_ci95"]]
    alike = Outcome(SMALL, [of_vib("1e-2", curve=wider), of_vib("1e-3")], "")
    assert alike.chosen["vib"] == {"vib_beta": "1e-3"}  # the first, whatever the intervals


# ---- what is still to be made


def jobs(records, folder=Path("f"), study=SMALL, **more) -> dict[str, list[str]]:
    """Return the modes of the jobs' commands, with the surrogate, by savedir."""
    found = {}
    for job in here(study, records).jobs(folder, **more):
        flags = [dict(itertools.pairwise(command)) for command in job.commands]
        assert str(job.savedir) not in found
        found[str(job.savedir)] = [f"{one['--mode']} {one.get('--surrogate', '')}".strip() for one in flags]
    return found


def test_the_first_round_trains_all_values_and_tests_what_needs_no_choice():
    trained = ["meta_train", "meta_test"]
    assert jobs([]) == {
        "f/maml_0": trained, "f/metadrop_0": trained, "f/vib-1e-3_0": ["meta_train"], "f/vib-1e-2_0": ["meta_train"],
        "f/maml_1": trained, "f/metadrop_1": [*trained, "attack"],
    }  # fmt: skip
    assert list(jobs([], seeds=(1,))) == ["f/maml_1", "f/metadrop_1"]
    train, test = here(SMALL, []).jobs(Path("f"))[0].commands
    assert " ".join(train) == f"--mode meta_train --resume {SMALL.train} --model maml --seed 0"
    assert " ".join(test) == TEST


def test_later_rounds_make_what_is_missing_and_only_that():
    """Attacks wait for the run whose gradients they take, and have its savedir and their own."""
    records = [
        made(SMALL, "maml", 0, [1], savedir=Path("a")), made(SMALL, DROP, 0, savedir=Path("b")),
        of_vib("1e-3", savedir=Path("c"), curve=curve(800, validation=0.7)), of_vib("1e-2", savedir=Path("d")),
        made(SMALL, "maml", 1, savedir=Path("e"), curve=curve(400)),
    ]  # fmt: skip
    assert jobs(records) == {
        "a": ["attack b"], "b": ["meta_test", "attack b"], "d": ["meta_test"], "e": ["meta_train", "meta_test"],
        "f/metadrop_1": ["meta_train", "meta_test", "attack"], "f/vib-1e-2_1": ["meta_train", "meta_test"],
    }  # fmt: skip
    records[0] = with_result(records[0], SMALL.tests["other"].flags, [[1]])
    assert "a" not in jobs(records)


def test_kept_results_of_this_kind_of_machine_count_as_made():
    """A run that lacks a test is trained again, since its weights are not here; that of another kind of machine is,
    too."""
    for device, missing in ((HERE, []), (OTHER_CHIP, ["f/maml_0"])):
        assert [place for place in jobs([made(SMALL, "maml", 0, [1], device=device)]) if "maml_0" in place] == missing
    assert jobs([made(SMALL, "maml", device=HERE)])["f/maml_0"] == ["meta_train", "meta_test"]
    assert "f/vib-1e-3_0" not in jobs([of_vib("1e-3", device=HERE)])  # it may not have to be tested
    elsewhere = made(SMALL, "maml", 0, [1], device=OTHER_CHIP, savedir=Path("a"))
    assert not [place for place in jobs([elsewhere]) if "maml_0" in place]  # it was begun there, and is here
    kept = made(SMALL, DROP, 0, [1], device=HERE)  # its weights are not here: nobody can take its gradients
    assert jobs([kept, made(SMALL, "maml", 0, [1], savedir=Path("a"))]).keys().isdisjoint({"a", "f/metadrop_0"})


def test_runs_on_another_version_of_the_data_do_not_count_as_made():
    made_before = [made(SMALL, name, seed, [1], device=HERE) for name in ("maml", DROP) for seed in (0, 1)]
    ours = {job.savedir.name for job in here(SMALL, made_before, {"omniglot": "d"}).jobs(Path("f"))}
    theirs = {job.savedir.name for job in here(SMALL, made_before, {"omniglot": "e"}).jobs(Path("f"))}
    assert "maml_0" not in ours and {"maml_0", "maml_1"} < theirs
    assert here(SMALL, made_before, {"mimgnet": "e"}).runs["maml"].keys() == {0, 1}


def test_a_run_on_the_disk_is_gone_on_with_even_if_more_of_it_is_kept():
    kept = with_result(made(SMALL, "maml", 0, [1], device=HERE), SMALL.tests["other"].flags, [[1]])
    begun = made(SMALL, "maml", 0, savedir=Path("a"), time="2026-02-01")
    assert jobs([kept, begun])["a"] == jobs([begun, kept])["a"] == ["meta_test"]


def test_a_run_of_weights_is_tested_and_not_trained(tmp_path):
    weights = f"{ROOT}/pretrained/glyphs_10way_1shot_maml.npz"
    study = replace(SMALL, runs={"shipped": Run("Shipped", weights=weights)}, tests={"test": Asked(TEST)})
    (job,) = here(study, []).jobs(tmp_path, seeds=(0,))
    assert (job.savedir, job.commands) == (tmp_path / "shipped_0", [[*TEST.split(), "--weights", weights]])
    digest = read_file(Path(weights)).about["weights_sha256"]
    done = made(study, "shipped", 0, [1], savedir=tmp_path / "x", curve={}, weights_sha256=digest)
    assert here(study, [done]).jobs(tmp_path, seeds=(0,)) == []


def test_a_run_from_the_beginning_is_not_that_of_weights_with_its_settings(tmp_path):
    """Neither is found in place of the other, whichever is on the disk and whichever is kept."""
    weights = f"{ROOT}/pretrained/glyphs_10way_1shot_maml.npz"
    shipped = replace(SMALL, runs={"shipped": Run("Shipped", weights=weights)}, tests={"test": Asked(TEST)})
    digest = read_file(Path(weights)).about["weights_sha256"]
    tested = made(shipped, "shipped", 0, [1], curve={}, device=HERE, weights_sha256=digest)
    begun = made(shipped, "shipped", 0, [2], savedir=tmp_path / "mine", curve=curve(100), device=HERE)
    other = replace(tested, savedir=tmp_path / "z", results=[tested.results[0] | {"weights_sha256": "of others"}])
    for records in ([tested, begun], [begun, tested], [other, tested]):
        outcome = here(shipped, records)
        assert outcome.results("shipped")[0]["accuracy"] == 1 and outcome.jobs(tmp_path, seeds=(0,)) == []
    for records in ([begun], [other]):
        assert [job.savedir for job in here(shipped, records).jobs(tmp_path, seeds=(0,))] == [tmp_path / "shipped_0"]


def test_an_unfinished_run_may_be_continued_on_any_machine():
    """The tests of a file of weights, and the curve and the test of the run that continued from it elsewhere."""
    flags = table1.tests["test"].flags
    file = made(table1, "maml_omni_1shot", curve={}, device=OTHER_CHIP, time="")
    file = with_result(file, flags, [50], iteration=500)
    rest = {name: column[1:] for name, column in curve(800).items()}
    further = with_result(made(table1, "maml_omni_1shot", curve=rest), flags, [60], iteration=800)
    (outcome,) = outcomes(table1, [file, further])
    (record,) = outcome.runs["maml_omni_1shot"].values()
    assert list(outcome.by_iteration("maml_omni_1shot")) == [500, 800]
    assert outcome.last_iteration("maml_omni_1shot") == 40000
    assert record.curve == further.curve and len(record.results) == 2
    assert outcome.results("maml_omni_1shot")[0]["accuracy"] == 60
    other = made(table1, "maml_omni_1shot", 0, [70], curve=curve(900), time="2026-02-01")  # from the beginning
    (record,) = Outcome(table1, [further, other], "").runs["maml_omni_1shot"].values()
    assert len(record.results) == 2  # the continuation of one of the two
    mine = with_result(made(table1, "maml_omni_1shot", curve=curve(800)), flags, [40], iteration=400)
    for least, most in ((400, 500), (800, 800)):  # each training by itself, and the one that is further
        one = replace(mine, results=[mine.results[0] | {"iteration": least}])
        (record,) = Outcome(table1, [file, one], "").runs["maml_omni_1shot"].values()
        assert [result["iteration"] for result in record.results] == [most]
    tested = with_result(made(table1, "maml_omni_1shot", curve={}, device=OTHER_CHIP), flags, [45], iteration=800)
    (record,) = Outcome(table1, [mine, tested], "").runs["maml_omni_1shot"].values()  # of one training
    assert record.curve == mine.curve and [result["iteration"] for result in record.results] == [400, 800]
