"""Every declared study: its flags are main.py's, its parts name its runs, and it says what it has no results of."""

import documents
import outcomes
import pytest
from catalogue import STUDIES, command_in, table1

from errors import UserError
from studies.robustness import AttackSettings
from study_runs import made, with_result
from training.config import Config

NAMES = [(study.name, name) for study in STUDIES.values() for name in study.runs]


@pytest.mark.parametrize("study", STUDIES.values(), ids=STUDIES)
def test_a_studys_flags_are_main_pys_and_its_parts_name_its_runs(study):
    assert STUDIES[study.name] is study and study.question and study.time
    assert study.baseline is None or study.baseline in study.runs
    settings, titles = {}, {}
    for seed, name in study.pairs():
        run = study.runs[name]
        assert {run.baseline, run.other} <= {None, *study.runs} and (run.weights or seed in study.seeds_of(name))
        for values in outcomes.combinations(run):
            words = study.training(name, seed, values)
            config = Config.of(outcomes.config_of(words).values())
            assert run.weights or config.run.seed == seed
            assert titles.setdefault((run.title, config.run.dataset), name) == name, "two runs have the same title"
            key = outcomes.comparable(config.values())
            assert settings.setdefault(key, (seed, name)) == (seed, name), "two runs have the same settings"
            learner = f"--model {config.run.model}"
            for test in study.tests.values():
                if test.is_of(name, seed) and outcomes.program_of(test.flags.split()) == "main.py":
                    flags = outcomes.parse(f"{test.flags} {learner}")
                    assert ("{other}" in test.flags) <= (run.other is not None)
                    if flags["mode"] == "attack":
                        AttackSettings.of(flags).refuse_idle(flags)
    for test in study.tests.values():
        assert {*(test.runs or ())} <= {*study.runs} and {*(test.seeds or ())} <= {*study.seeds}
        assert outcomes.is_known(test.flags)


def weights_of(study, name) -> dict:
    """Return the entry of a result that says which file's weights were tested; none of a run that is trained."""
    weights = study.runs[name].weights
    return {"weights_sha256": outcomes.digest_of(weights)} if weights else {}


@pytest.mark.parametrize("study", [study for study in STUDIES.values() if study.runs], ids=lambda study: study.name)
def test_without_results_a_table_or_figure_is_a_sentence_and_with_some_there_is_no_traceback(study):
    """A single test of a single run, or of all of them, is enough to look at every table and figure."""
    every = [made(study, name, seed, values=outcomes.combinations(study.runs[name])[0]) for seed, name in study.pairs()]
    tested = [
        with_result(record, test.flags, [[5.0] * 2] * 6 if "attack" in test.flags else [5.0] * 2, **facts)
        for record, facts in zip(every, [weights_of(study, name) for _, name in study.pairs()], strict=True)
        for test in study.tests.values()
        if "collapse" not in test.flags
    ]
    for records in ([], every, tested[:1], tested):
        found = outcomes.outcomes(study, records)
        for name in study.tables:
            try:
                assert documents.table(study, name, found).startswith("|")
            except UserError as sentence:
                assert "there are no results of" in str(sentence)
        for name in study.figures:
            try:
                documents.drawn(study, name, found)
            except UserError as sentence:
                assert "there are no results of" in str(sentence)


def test_table_1_has_the_flags_of_its_scripts():
    """test_scripts.py checks those of the scripts; Meta-dropout's test has more noise samples."""
    assert (
        list(table1.runs)[:3] == ["maml_omni_1shot", "metadrop_omni_1shot", "maml_omni_5shot"] and len(table1.runs) == 8
    )
    for name in table1.runs:
        train, test = (
            outcomes.parse(f"--mode {mode} {command_in(name, mode)}") for mode in ("meta_train", "meta_test")
        )
        config = outcomes.config_of(table1.training(name, 0, {})).values()
        assert {key: config[key] for key in config.keys() & train.keys()} == {
            k: v for k, v in train.items() if k in config
        }
        flags = outcomes.parse(table1.tests["test"].flags)
        assert {**test, "n_test_mc_samp": 30} == flags and test["n_test_mc_samp"] == (30 if "metadrop" in name else 1)
