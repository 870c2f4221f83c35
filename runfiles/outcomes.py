"""Compare what a study wants with what there is: the settings of its runs, their records, the choice by the validation
classes, the tests of each run, and the commands that are still to be made."""

from __future__ import annotations

import contextlib
import io
import itertools
import math
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from catalogue import Run, Study, Test
from records import Record, comparable, last_validation, rounded, this_machine, unite

import main
from errors import UserError
from lazy import LazyModule
from learners import classes_for
from perturbations.base import Perturbation
from studies.robustness import AttackSettings
from training import weights as weights_file
from training.config import Config
from training.loops import MetaTestSettings
from training.test_results import time_of

# Settings that do not distinguish the runs of a study of unfinished ones: their length, and those of validations.
FREE_OF_UNFINISHED = ("n_train_iters", "n_test_mc_samp", "val_every", "n_val_tasks")


class Job(NamedTuple):
    """A run that is to be trained or tested: its savedir, and the flags of each command, in their order."""

    savedir: Path
    commands: list[list[str]]


measures = LazyModule("measures")  # imports scikit-learn
PROGRAMS = {"main.py": main, "runfiles/measures.py": measures}


def program_of(words: Iterable[str]) -> str:
    """Return the program that takes these flags, one of PROGRAMS."""
    return "runfiles/measures.py" if "--measure" in words else "main.py"


@lru_cache(maxsize=4096)
def parse(words: str) -> dict:
    """Return the flags of a command, by name and with their types. Exit with one sentence if its program refuses
    them."""
    flags = shlex.split(words)
    return PROGRAMS[program_of(flags)].read_command(["--savedir", "-", *flags])


def is_known(words: str) -> bool:
    """Return True if the program takes these flags."""
    with contextlib.redirect_stderr(io.StringIO()), contextlib.suppress(SystemExit, UserError):
        return bool(parse(words))
    return False


@lru_cache(maxsize=4096)
def config_of(words: str) -> Config:
    """Return the settings of the run that meta_train would train with these flags, or of the file of --weights."""
    flags = parse(f"--mode meta_train {words}")
    return Config.read(flags["weights"][0]) if "weights" in flags else Config.of_flags(flags)


@lru_cache
def digest_of(file: str) -> str:
    """Return the digest of the weights in a file."""
    return weights_file.read(Path(file)).about["weights_sha256"]


def digest_of_start(study: Study, record: Record) -> str | None:
    """Return the digest of a record's weights, if a run of the study begins with them and the record's run was not
    trained further; else None. It tells this run from a trained one with the same settings."""
    digests = {digest_of(run.weights) for run in study.runs.values() if run.weights}
    if record.curve or not digests:  # then no file needs to be read
        return None
    return record.weights_sha256 if record.weights_sha256 in digests else None


class Outcome:
    """The records of a study's runs on one kind of machine and one version of the data.

    machine: the kind of machine. chosen: the values that each run has chosen, by its name; None if it cannot yet; not
    those of a training that failed.
    validations: accuracy and interval of the first seed, in percent, by the run's name and its values. runs: the
    records of each run with the chosen values, by its name and the seed.
    """

    def __init__(self, study: Study, records: list[Record], machine: str):
        self.study, self.machine = study, machine
        self.records = {}
        for record in records:
            before = self.records.get(key := self._key(record.settings, digest_of_start(study, record)))
            self.records[key] = self._better(before, record) if before else record
        self.validations = {name: self._validations(name) for name in study.runs}
        self.chosen = {name: self._choose(name) for name in study.runs}
        self.runs = {}
        for name, values in self.chosen.items():
            found = {seed: self.record(name, seed, values) for seed in study.seeds_of(name)}
            self.runs[name] = {seed: record for seed, record in found.items() if record}

    def _validations(self, name: str) -> dict[tuple[str, ...], tuple[float, float]]:
        first, run = self.study.seeds_of(name)[0], self.study.runs[name]
        found = {tuple(one.values()): last_validation(self.record(name, first, one)) for one in combinations(run)}
        return {values: accuracy for values, accuracy in found.items() if accuracy}

    def _choose(self, name: str) -> dict[str, str] | None:
        run, found = self.study.runs[name], self.validations[name]
        if not run.choose:
            return {}
        first = self.study.seeds_of(name)[0]
        failed = [one for one in combinations(run) if (record := self.find(name, first, one)) and record.failure]
        if not found or len(found) + len(failed) < len(combinations(run)):
            return None
        return dict(zip(run.choose, max(found, key=lambda values: found[values][0]), strict=True))

    def _better(self, one: Record, other: Record) -> Record:
        """Return the one of two trainings with the same settings that is shown: first a complete one (in a study of
        unfinished runs the one with the latest test), then the one with more of the study's results, then the later
        one. In a study of unfinished runs, unite the two if the curve of one begins later (it was continued elsewhere),
        if neither has a curve, or if they began at the same time."""
        begins = [record.curve["iter"][0] if record.curve else None for record in (one, other)]
        same = bool(one.trained) and one.trained == other.trained
        if self.study.unfinished and (same or (any(begins) or begins == [None, None])):
            return unite(one, other)

        def worth(record: Record) -> tuple:
            found = sum(find_result(test, record) is not None for test in self.study.tests.values())
            return record.last_tested if self.study.unfinished else record.complete, found, record.trained

        return max(other, one, key=worth)

    def _key(self, settings: tuple, weights: str | None) -> tuple:
        free = FREE_OF_UNFINISHED if self.study.unfinished else ()
        return weights, *(pair for pair in settings if pair[0] not in free)

    def find(self, name: str, seed: int, values: dict[str, str]) -> Record | None:
        """Return the record of a run, even of one whose training is not complete; None if there is none."""
        settings, file = config_of(self.study.training(name, seed, values)).values(), self.study.runs[name].weights
        return self.records.get(self._key(comparable(settings), file and digest_of(file)))

    def record(self, name: str, seed: int, values: dict[str, str] | None) -> Record | None:
        """Return the record of a run; None if there is none, if its training is not complete, or without values."""
        found = None if values is None else self.find(name, seed, values)
        return found if found and (found.complete or self.study.unfinished) else None

    def results(self, name: str, test: str = "test") -> dict[int, dict]:
        """Return the results of a test of a run, by seed."""
        found = {seed: find_result(self.study.tests[test], record) for seed, record in self.runs[name].items()}
        return {seed: result for seed, result in found.items() if result}

    def by_iteration(self, name: str, test: str = "test") -> dict[int, dict]:
        """Return the results of a test of an unfinished run, by iteration."""
        of = [all_results(self.study.tests[test], record) for record in self.runs[name].values()]
        return {one["iteration"]: one for one in sorted(itertools.chain(*of), key=lambda one: one["iteration"])}

    def last_iteration(self, name: str) -> int:
        """Return the last iteration that a run is to have."""
        return config_of(self.study.training(name, self.study.seeds_of(name)[0], {})).training.n_train_iters

    def jobs(self, folder: Path, seeds: tuple[int, ...] | None = None) -> list[Job]:
        """Return what can be made now, of these seeds or of all, with the savedirs of new runs in `folder`. Runs of a
        value that is not chosen yet come later, as do attacks with the gradients of a run that is not trained yet."""
        jobs = []
        for seed, name in self.study.pairs():
            first = seed == self.study.seeds_of(name)[0]
            choices = combinations(self.study.runs[name]) if first else [self.chosen[name]]
            for values in choices if seed in (seeds or (seed,)) else ():
                if values is not None and (commands := self._commands(name, seed, values)):
                    found, label = self.find(name, seed, values), "-".join([name, *values.values()])
                    jobs.append(Job((found and found.savedir) or folder / f"{label}_{seed}", commands))
        return jobs

    def of_study(self) -> list[Record]:
        """Return the study's records, those of values that were not chosen included, with the results of its tests."""
        tests, kept = self.study.tests.values(), []
        for seed, name in self.study.pairs():
            for record in filter(None, (self.find(name, seed, one) for one in combinations(self.study.runs[name]))):
                if record.complete or record.failure or self.study.unfinished:
                    results = [one for one in record.results if any(is_result(test, record, one) for test in tests)]
                    kept.append(replace(record, results=results))
        return kept

    def _commands(self, name: str, seed: int, values: dict[str, str]) -> list[list[str]]:
        """Return the flags of the commands that a run still needs; it is trained again if what it lacks needs weights
        that are not on this machine."""
        record, weights = self.record(name, seed, values), self.study.runs[name].weights
        other = self.runs.get(self.study.runs[name].other, {}).get(seed)
        places = {"self": record and record.savedir, "other": other and other.savedir}
        tests = []
        for test in self.study.tests.values() if values == self.chosen[name] else ():
            ready = all(places[place] for place in places if f"{{{place}}}" in test.flags)
            if test.is_of(name, seed) and ready and not (record and find_result(test, record)):
                tests.append([word.format(**places) for word in shlex.split(test.flags)])
        if weights:
            return [[*words, "--weights", weights] for words in tests]
        if record and (record.savedir or not tests):
            return tests
        return [["--mode", "meta_train", "--resume", *shlex.split(self.study.training(name, seed, values))], *tests]


def combinations(run: Run) -> list[dict[str, str]]:
    """Return the combinations of values that a run chooses from; one, without values, if it chooses nothing."""
    return [dict(zip(run.choose, values, strict=True)) for values in itertools.product(*run.choose.values())]


def find_result(test: Test, record: Record) -> dict | None:
    """Return the latest result of this test in a record, by iteration and time; None if there is none. A test of the
    last checkpoint that was made before the training was complete does not count."""
    last = record.iteration if record.complete else 0
    found = [one for one in all_results(test, record) if one.get("checkpoint") == "best" or iteration_of(one) >= last]
    return max(found, key=lambda result: (iteration_of(result), time_of(result)), default=None)


def all_results(test: Test, record: Record) -> list[dict]:
    """Return the results of this test in a record."""
    return [result for result in record.results if is_result(test, record, result)]


def iteration_of(result: dict) -> float:
    """Return the iteration of the weights that were tested; infinite if an older result does not say it."""
    return math.inf if (iteration := result.get("iteration")) is None else iteration


def is_result(test: Test, record: Record, result: dict) -> bool:
    """True if `result` is what the test's flags compute for this run. A setting that an older result lacks agrees with
    everything."""
    if "--measure" in test.flags:
        return result["mode"] == "measure" and measures.MeasureSettings.of(parse(test.flags)).is_of(record, result)
    learner = " ".join(
        f"--{name} {record.config[name]}" for name in ("model", "perturbation") if record.config.get(name)
    )
    words = f"{test.flags.replace('{', '').replace('}', '')} {learner}"
    if not is_known(words) or result["mode"] != (flags := parse(words))["mode"]:
        return False
    tested = Config.of({**Config.of(record.config).for_a_test().values(), **flags})
    expected = tested.identity() | {"precision": tested.run.precision}
    found, settings = result["settings"], MetaTestSettings.of(flags)
    wanted = {"episodes": settings.n_test_iters, "checkpoint": settings.checkpoint}
    if classes_for(tested.run.model, tested.run.perturbation)[1] is not Perturbation:
        wanted["n_test_mc_samp"] = tested.testing.n_test_mc_samp
    across = flags.get("across", False)
    if not across:
        expected["data_sha256"] = record.data
    agree = all(found.get(name, value) == value for name, value in expected.items())
    agree &= all(result.get(name, value) == value for name, value in wanted.items())
    agree &= found.get("trained_on") == (record.config["dataset"] if across else None)
    return agree and (result["mode"] != "attack" or is_attack(AttackSettings.of(flags), test.earlier, result))


def is_attack(settings: AttackSettings, earlier: tuple[str, ...], result: dict) -> bool:
    """True if a result is of an attack with these settings. The surrogate is the run itself, or another run."""
    found = rounded(result["settings"]["attack"])
    surrogate = found.pop("surrogate", None)
    wanted = {name: v for name, v in rounded(settings.attack().identity()).items() if name not in earlier}
    return found == wanted and (surrogate or {}).get("draws") == (
        settings.surrogate_draws if settings.surrogate else None
    )


def outcomes(study: Study, records: list[Record]) -> list[Outcome]:
    """Return the outcomes of a study, those with most results first. Runs of different kinds of machine, or of
    different versions of a dataset, are never in the same one; but unfinished runs may be continued on any machine. A
    study without runs has one, without records."""
    if not study.runs:
        return [Outcome(study, [], "")]
    names, machines = datasets_of(study), {}
    for record in records:
        if (dataset := record.config["dataset"]) in names:
            machine = "any machine" if study.unfinished else record.machine
            versions = machines.setdefault(machine, {}).setdefault(dataset, {})
            versions.setdefault(record.data, []).append(record)
    found = [
        Outcome(study, list(itertools.chain(*version)), machine)
        for machine, datasets in machines.items()
        for version in itertools.product(*(versions.values() for versions in datasets.values()))
    ]
    sizes = {one: sum(len(one.results(*pair)) for pair in itertools.product(study.runs, study.tests)) for one in found}
    shown = [one for one in found if sizes[one] or (study.unfinished and any(one.runs.values()))]  # validated, at least
    return sorted(shown, key=lambda one: -sizes[one])


def datasets_of(study: Study) -> set[str]:
    """Return the names of the datasets that a study's runs are trained on."""
    return {config_of(study.training(name, seed, {})).run.dataset for seed, name in study.pairs()}


def here(study: Study, records: list[Record], data: Mapping[str, str] = MappingProxyType({})) -> Outcome:
    """Return the outcome of the runs that this machine can go on with: those on its disk, and others that this kind of
    machine has made. data: the digests of the datasets that are here; runs on other versions of them do not count."""
    records = [record for record in records if data.get(record.config["dataset"], record.data) == record.data]

    def identity(record: Record) -> tuple:
        return record.settings, digest_of_start(study, record)

    on_disk = {identity(record) for record in records if record.savedir}
    usable = [
        record
        for record in records
        if record.savedir or (identity(record) not in on_disk and record.machine == this_machine())
    ]
    return Outcome(study, usable, this_machine())
