"""Read what runs have left from their savedirs and from kept files, merge it, and keep it.

A kept file, docs/results/STUDY.jsonl.xz, has one line of JSON for each run: `config` (its settings, the data's digest
and the machines of its training), `curve` (the columns of meta_train.csv), `results` (its tests and attacks, with the
accuracy of every episode), `collapse` (the rows of collapse.csv) and `failure` (what a training that diverged said). It
holds no weights. docs/results/README.md says how to look into it.

Importing this module lets a program of this folder import those of the folder above.
"""

from __future__ import annotations

import json
import lzma
import math
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from errors import UserError, user_error  # noqa: E402
from figures.run import read_curves  # noqa: E402
from files import parse_json, write_atomically  # noqa: E402
from training import weights  # noqa: E402
from training.config import Config  # noqa: E402
from training.devices import describe_devices  # noqa: E402
from training.test_results import COLLAPSE_CSV, DAMAGE, identity_of, read_collapse, read_json  # noqa: E402

KEPT = ROOT / "docs/results"
# Settings that do not distinguish runs: they change nothing, or (gpu_id, jit) the rounding alone.
FREE = ("gpu_id", "jit", "data_dir", "save_freq", "collapse_every")
PARTS = ("config", "curve", "results", "collapse", "failure")  # of a line in a kept file
FAILURE = "study.failure"  # file in the savedir of a run whose training diverged: what it said
LEFT_OUT = ("losses",)  # of each episode: long, and no table needs them


@dataclass(frozen=True)
class Record:
    """A run: the content of its config.json, the columns of its curve (empty if it was not trained here), its results,
    its neural collapse while it was trained, what it said if it diverged, and the folder that it was read from, or None
    if it was read from a kept file."""

    config: dict
    curve: dict[str, list[float | None]]
    results: list[dict]
    collapse: list[dict] = field(default_factory=list)
    failure: str = ""
    savedir: Path | None = None

    @cached_property
    def settings(self) -> tuple:
        """Return what identifies the run among those of other settings, seeds and data."""
        return comparable(Config.of_flags(self.config).values())

    @cached_property
    def machine(self) -> str:
        """The kind of machine that trained the run, or the kinds; those of its tests if it began with trained weights
        and has a test."""
        return " and ".join(sorted(set(self._machines))) or "?"

    @property
    def _machines(self) -> list[str]:
        """The kinds of machine of the training or of the tests, in their order."""
        trained = self.config.get("sessions") or []
        tested = [result["provenance"] for result in self.results if "provenance" in result]
        return [processor(one.get("device", "?")) for one in (trained if self.curve else tested or trained)]

    @property
    def data(self) -> str | None:
        return self.config.get("data_sha256")

    @property
    def trained(self) -> str:
        """The time at which the training began, as a text that sorts by time."""
        return next((session.get("time") or "" for session in self.config.get("sessions") or []), "")

    @property
    def began(self) -> tuple:
        """Return what identifies the training, wherever it was continued."""
        return self.settings, self.data, self.trained, *self._machines[:1]

    @property
    def iteration(self) -> int:
        """The last iteration in the curve; -1 without a curve."""
        return int(self.curve["iter"][-1]) if self.curve else -1

    @property
    def last_tested(self) -> int:
        """The last iteration that a test has met; -1 without tests."""
        return max((result.get("iteration") or -1 for result in self.results), default=-1)

    @cached_property
    def weights_sha256(self) -> str | None:
        """The digest of the weights that were tested, or that a run which is not trained here begins with."""
        if self.savedir and (self.savedir / weights.START).exists():
            return weights.read(self.savedir / weights.START).about["weights_sha256"]
        return next((result["weights_sha256"] for result in self.results if "weights_sha256" in result), None)

    @property
    def complete(self) -> bool:
        """True if the run has made all its iterations, or if none was needed: it began with trained weights, or its
        learner is not trained."""
        last, begun = self.config["n_train_iters"], self.savedir and (self.savedir / weights.LOCK).exists()
        return self.iteration >= last if self.curve or (begun and last) else True

    def to_json(self) -> str:
        """Return the run's line in a kept file."""
        content = {name: getattr(self, name) for name in PARTS}
        return json.dumps(rounded(content), separators=(",", ":"))


def last_validation(record: Record | None) -> tuple[float, float] | None:
    """Return the last validation accuracy and its 95 % interval, in percent; None if there is none after the first
    update."""
    curve = record.curve if record else {}
    rows = zip(*(curve.get(name, []) for name in ("iter", "val_acc", "val_ci95")), strict=True)
    validated = [(100 * accuracy, 100 * interval) for i, accuracy, interval in rows if i and accuracy is not None]
    return validated[-1] if validated else None


def comparable(settings: dict) -> tuple:
    """Return settings in a form that can be compared and is hashable."""
    return tuple(sorted((name, json.dumps(value)) for name, value in settings.items() if name not in FREE))


def processor(device: str) -> str:
    """Return the kind of machine in a description of devices (training.devices): a processor without the number of its
    cores, or a GPU."""
    return re.sub(r"^CPU, \d+ cores? of ", "", device.partition(";")[0])


def this_machine() -> str:
    """Return the kind of this machine's processor."""
    return processor(describe_devices([], 1))


def rounded(value):
    """Return a JSON value whose numbers have at most six digits, and no NaN."""
    if isinstance(value, float):
        return None if math.isnan(value) else float(f"{value:.6g}")
    if isinstance(value, dict):
        return {name: rounded(one) for name, one in value.items()}
    return [rounded(one) for one in value] if isinstance(value, list | tuple) else value


def read_savedir(savedir: Path) -> Record:
    """Read what a run has left in its savedir. A damaged result counts as none, so that a study makes it again."""
    config = Config.read(savedir).portable()
    curve = {}
    if (savedir / "meta_train.csv").exists():
        with_rows = len((savedir / "meta_train.csv").read_text(errors="replace").splitlines()) > 1
        columns = read_curves(savedir) if with_rows else {}
        curve = {name: [None if math.isnan(x) else x for x in column] for name, column in columns.items()}
    results = {}
    for path in [*sorted(savedir.glob("*.json")), *sorted(savedir.glob("tests/*.json"))]:
        result = read_json(path)
        if path.name != "config.json" and result and "provenance" in result:
            mode = path.stem if path.parent == savedir else path.stem.rpartition("-")[0]
            result = {name: value for name, value in result.items() if name not in LEFT_OUT}
            result["provenance"] = {k: v for k, v in result["provenance"].items() if k != "command"}
            results[json.dumps([mode, identity_of(result)], sort_keys=True)] = {"mode": mode} | result
    watched = read_collapse(savedir)["watched"] if (savedir / COLLAPSE_CSV).exists() else []
    failure = (savedir / FAILURE).read_text() if (savedir / FAILURE).exists() else ""
    return Record(config, curve, list(results.values()), watched, failure, savedir)


def read_savedirs(folder: Path) -> Iterator[Record]:
    """Read the runs below a folder, up to three levels deep. A run that cannot be read is left out, with a note."""
    for depth in ("*", "*/*", "*/*/*"):
        for path in sorted(folder.glob(f"{depth}/config.json")):
            try:
                yield read_savedir(path.parent)
            except UserError as fault:
                print(f"left out: {fault}", file=sys.stderr)


def read_weights(file: Path) -> Record:
    """Read the settings of a run from a file of weights, and the tests that train_jax.py made during its training."""
    about = weights.read(file).about
    config = about["settings"] | {"sessions": [{"device": about.get("trained_on", "?")}]}
    return Record(config, {}, [{"mode": "meta_test", "settings": {}} | test for test in about.get("tests", [])])


def read_kept(path: Path) -> list[Record]:
    """Read the runs in a kept file; none if there is no file."""
    if not path.exists():
        return []
    with user_error(f"{path} cannot be read", "restore it from the repository", EOFError, lzma.LZMAError, *DAMAGE):
        lines = lzma.decompress(path.read_bytes()).decode().splitlines()
        return [Record(**{name: parse_json(line)[name] for name in PARTS}) for line in lines]


def merge(records: Iterable[Record]) -> list[Record]:
    """Return one record for each training: the records of one are united, also where it was continued on another
    machine, and the later record's results count."""
    trainings = {}
    for record in records:
        before = trainings.get(record.began)
        trainings[record.began] = unite(before, record) if before else record
    return list(trainings.values())


def unite(one: Record, other: Record) -> Record:
    """Return a record with the curve and the results of two records of the same training. Its savedir is that of the
    one which is further."""
    results = {json.dumps([r["mode"], identity_of(r)], sort_keys=True): r for r in (*one.results, *other.results)}
    longer = max(other, one, key=lambda record: record.iteration)
    found = (record.savedir for record in (other, one) if record.savedir and record.iteration == longer.iteration)
    curve, savedir = joined(one.curve, other.curve), next(found, None)
    collapse = longer.collapse or one.collapse or other.collapse
    return replace(longer, curve=curve, results=list(results.values()), collapse=collapse, savedir=savedir)


def joined(one: dict, other: dict) -> dict:
    """Return the rows of two curves, by iteration: a run that was continued from its weights elsewhere has a curve that
    begins there."""
    pairs = ((curve, cells) for curve in (one, other) for cells in zip(*curve.values(), strict=True))
    by_iteration = {row["iter"]: row for row in (dict(zip(*pair, strict=True)) for pair in pairs)}
    return {name: [by_iteration[i].get(name) for i in sorted(by_iteration)] for name in {**one, **other}}


def read_all(results: Path | None, kept: Path = KEPT) -> list[Record]:
    """Read all kept runs, those of pretrained/ and those below the folder `results`, merged."""
    records = [read_weights(file) for file in sorted((ROOT / "pretrained").glob("*.npz"))]
    records += [record for path in sorted(kept.glob("*.jsonl.xz")) for record in read_kept(path)]
    return merge([*records, *(read_savedirs(results) if results else ())])


def keep(path: Path, records: Iterable[Record]) -> None:
    """Write a kept file; leave it alone if it holds these records already."""
    lines = sorted({record.to_json() for record in records})
    path.parent.mkdir(parents=True, exist_ok=True)
    content = "".join(f"{line}\n" for line in lines).encode()
    if not path.exists() or lzma.decompress(path.read_bytes()) != content:
        write_atomically(path, lzma.compress(content, preset=9 | lzma.PRESET_EXTREME))
