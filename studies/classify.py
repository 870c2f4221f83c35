"""--mode classify: classify a folder's pictures by labelled ones; write tables and a page."""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path

import numpy as np
from tqdm import tqdm

from errors import Stop, UserError, user_error
from files import refuse_unwritable, write_atomically
from learners.heads import HEADS
from settings import setting, to_number, to_path, whole
from sources.backbone import network_name
from sources.folders import Walk
from sources.labels import read_labels
from sources.pictures import plural, readable, report
from studies.classifier import FOLDS, NONE, Classifier, PictureWarning, parts_to_leave_out
from studies.classify_page import HEAD, LEFT_OUT_HEAD, PAGE, Guess, page, table, table_by_class
from studies.left_out import LeftOut
from training.checkpoints import CheckpointSettings
from training.config import gpus
from training.steps import STATISTICS, SUPPORT


def number_of_parts(text: str) -> int:
    """Read a number of parts: 0, or at least 2."""
    if (number := whole(0)(text)) == 1:
        raise argparse.ArgumentTypeError("must be 0, or a whole number of at least 2: one part is all pictures")
    return number


number_of_parts.metavar = "N"


def share(text: str) -> float:
    """Read a number from 0 to 1."""
    if not 0 <= (value := to_number(text)) <= 1:
        raise argparse.ArgumentTypeError(f"must be a number from 0 to 1, not {text!r}")
    return value


@dataclass(frozen=True)
class ClassifySettings(CheckpointSettings):
    """The pictures, and how they are classified."""

    support: Path | None = setting(
        None,
        "folder with one folder of labelled pictures per class, or a table (.csv) of file,label",
        to_path,
        metavar="PATH",
    )
    pictures: Path | None = setting(None, "folder of the pictures to classify", to_path, metavar="DIR", alias="query")
    out: Path = setting(Path("predictions.csv"), "table to write; a page is written beside it", to_path, metavar="FILE")
    query_statistics: str = setting(
        SUPPORT,
        "the pictures that batch norm takes its statistics from: the support set; or, if there are about equally many "
        "query pictures of each class, support and query pictures together, or the query pictures alone",
        choices=STATISTICS,
    )
    skip_bad: bool = setting(False, "leave out pictures that cannot be read, and name them")
    invert: bool = setting(
        False,
        "invert the pictures: they are light on dark and the training images dark on light, or vice versa",
    )
    folds: int = setting(
        FOLDS,
        "estimate the accuracy: leave out the support pictures in at most N parts, and classify each part by the "
        "others; 0: do not",
        number_of_parts,
    )
    baseline: bool = setting(
        False,
        "estimate the accuracy of the nearest class mean in pixels or a backbone's features, too: the learner should "
        "be better",
    )
    reject: float | None = setting(
        None,
        f"predict `{NONE}` where the similarity to the nearest class is below S, a number from 0 to 1",
        share,
        metavar="S",
    )
    backbone: str | None = setting(
        None,
        "in place of a run: classify the features of this network of keras.applications, MobileNetV3Small for example",
        network_name,
    )
    backbone_weights: Path | None = setting(
        None,
        "file of the network's weights, if its features are not those of Keras' own download, trained on ImageNet",
        to_path,
        metavar="FILE",
    )
    head: str | None = setting(
        None,
        "classifier of the features of --backbone and of baselines (default: the run's, or nearest)",
        choices=HEADS,
    )
    n_test_mc_samp: int = setting(10, "noise samples of an inner step's loss", whole(1, 100_000))
    seed: int = setting(0, "seed of that noise", whole(0))
    gpu_id: str | None = setting(None, "GPU to use; -1 for none (default: CUDA_VISIBLE_DEVICES, or 0)", gpus)


def classify(run: Path | None, settings: ClassifySettings) -> int:
    """Classify the query pictures by the support pictures. Write a table of file, prediction and a probability for each
    class, the least sure first, and a page beside it. Then leave out the support pictures, write a table of their true
    and predicted classes, and add it to the page. Return the exit code: 0, or 130 if Ctrl-C ended it; the results so
    far are then written. Raise UserError if a folder or a picture cannot be read, or if the classifier refuses the
    pictures.
    """
    out, query = settings.out, settings.pictures
    if settings.baseline and not settings.folds:
        raise UserError("--baseline compares accuracies on left-out pictures, and --folds 0 leaves out none: drop one")
    if out.suffix.lower() != ".csv":
        raise UserError(f"--out {out} is not a table's name: give one that ends with .csv")
    page_file, by_class_file = out.with_suffix(".html"), out.with_name(f"{out.stem}_leave_out.csv")
    refuse_other_files(out, page_file, by_class_file)
    labelled, notes = support_files(settings.support)
    files, query_notes = query_files(query)
    notes += query_notes
    for note in notes:
        print(note, file=sys.stderr)
    labelled, files = readable_only(labelled, files, settings.skip_bad)
    if len({label for label, _ in labelled}) == 1:
        raise UserError(f"all pictures of --support {settings.support} are of one class: add those of another class")
    remarks = []
    with messages(remarks, "support"):
        more = {"statistics": settings.query_statistics, "samples": settings.n_test_mc_samp, "seed": settings.seed}
        names = "checkpoint", "invert", "reject", "backbone", "backbone_weights", "head"
        more |= {name: getattr(settings, name) for name in names}
        classifier = Classifier.load(run, **more)
        classifier.fit([file for _, file in labelled], [label for label, _ in labelled])
    classes, labels = classifier.classes_, [label for label, _ in labelled]
    left_out = LeftOut(np.searchsorted(classes, labels), len(classes))

    def write_page() -> None:
        texts, paper, reject = remarks + notes, classifier.paper, settings.reject
        write(page_file, page(guesses, classes, query, labelled, left_out, texts, paper, reject))

    with Stop() as stop:
        with messages(remarks, "query"):
            guesses = classified(classifier, files, query, stop)
        write(out, table(guesses, classes, settings.reject is not None))
        for file in (by_class_file, page_file):  # of an earlier call
            file.unlink(missing_ok=True)
        write_page()
        counted = f"{len(guesses)} of {len(files)}" if len(guesses) < len(files) else f"{len(files)}"
        sizes = f"{counted} {plural(files, 'picture')}, {len(classes)} classes"
        order = "the least sure first" if settings.reject is None else "the least similar first"
        print(f"{sizes}: {out} and {page_file}, {order}")
        print(*remarks, sep="\n", end="\n" * bool(remarks), flush=True)
        if settings.folds and not stop.asked:
            with messages(remarks, "support"):
                remarks.append(sentence := leave_out(classifier, settings.folds, labels, left_out, stop))
            print(sentence)
            write(by_class_file, table_by_class(left_out, classes, settings.reject is not None))
            if settings.baseline and not stop.asked:
                with messages(remarks, "support"):
                    remarks.append(sentence := compared(classifier, settings.folds, labels, left_out, stop))
                print(sentence)
            write_page()
            print(f"by class: {by_class_file}", flush=True)
    if stop.asked:
        print("interrupted: the results so far are written", file=sys.stderr)
    return 130 if stop.asked else 0


def write(file: Path, content: str) -> None:
    with user_error(f"cannot write {file}", "choose another --out", OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, content.encode("utf-8", "surrogateescape"))  # names as the disk has them


@contextmanager
def messages(remarks: list[str], which: str) -> Iterator[None]:
    """Add the classifier's warnings in a `with` block to `remarks`, and raise its ValueError as a UserError. which: the
    pictures, `support` or `query`."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", PictureWarning)
        try:
            yield
        except ValueError as fault:
            raise UserError(f"{fault}") from fault
    warned = (one.message for one in caught if issubclass(one.category, PictureWarning))
    remarks += [f"warning: {which} pictures: {message}" for message in warned]


def classified(classifier: Classifier, files: list[Path], query: Path, stop: Stop) -> list[Guess]:
    """Classify the files, or only some of them after Ctrl-C. Return the guesses, the least sure first, or with `reject`
    the least similar first."""
    parts = []
    with tqdm(total=len(files), unit="picture", desc="classify", disable=None) as bar:
        for part in classifier.predict_parts(files):
            parts.append(part)
            bar.update(len(part.chosen))
            if stop.asked:
                break
    names = [file.relative_to(query).as_posix() for file in files]
    probabilities, chosen, similarities = map(np.concatenate, zip(*parts, strict=True))
    rejected = chosen == probabilities.shape[1]
    sureness = probabilities.max(-1) if classifier.reject is None else similarities
    guesses = [*map(Guess, names, probabilities, rejected, similarities)]
    return [guesses[i] for i in np.argsort(sureness, kind="stable")]


def leave_out(classifier: Classifier, folds: int, labels: list[str], left_out: LeftOut, stop: Stop) -> str:
    """Leave out the support pictures as `Classifier.leave_out` does, fill in `left_out`, and return a sentence on the
    accuracy. labels: the support pictures'."""
    parts = len(parts_to_leave_out(labels, folds))
    bar = tqdm(classifier.leave_out(folds), total=parts, unit="part", desc="leave out", disable=None)
    for places, predictions in bar:
        left_out.predicted[places] = predictions.chosen
        if stop.asked:
            break
    remark = remark_on(left_out, parts, len(parts_to_leave_out(labels, len(labels))))
    return remark if classifier.statistics == SUPPORT else f"{remark} (with --query_statistics {SUPPORT})"


def compared(classifier: Classifier, folds: int, labels: list[str], left_out: LeftOut, stop: Stop) -> str:
    """Leave out the support pictures as `leave_out` does, but classify them by the nearest class mean of the
    learner's inputs. Return a sentence that compares it with the learner's results, `left_out`."""
    nearest, title = LeftOut(left_out.truth, left_out.classes), f"the nearest class mean in {classifier.inputs_name}"
    remark = leave_out(classifier.nearest_mean(), folds, labels, nearest, stop)
    if stop.asked:
        return f"{title} was interrupted: {remark}"
    learner, other = (np.count_nonzero((a.right == 1) & (b.right == 0)) for a, b in permutations((left_out, nearest)))
    only = f"{learner} {plural(range(learner), 'picture')} only by the learner, {other} only by the nearest mean"
    return f"{title}: {remark}; right {only}"


def remark_on(left_out: LeftOut, parts: int, pictures: int) -> str:
    """Say how many support pictures were classified right when they were left out. parts: the number of parts into
    which the `pictures` that can be left out were dealt."""
    if not left_out.done.any():
        return "leave-one-out: no class has two support pictures"
    how = "leave-one-out" if parts == pictures else f"{parts}-fold cross-validation"
    rejected = f", {left_out.rejected} rejected" if left_out.rejected else ""
    return f"{how} accuracy on the support pictures: {left_out.accuracy()}{rejected}"


def refuse_other_files(out: Path, page_file: Path, by_class_file: Path) -> None:
    """Raise UserError if these files could not be written, or if the user has other files with these names."""
    for file, beginning in (
        (out, ",".join([*HEAD, ""])),
        (page_file, PAGE.partition("<html")[0]),
        (by_class_file, ",".join([*LEFT_OUT_HEAD, ""])),
    ):
        if file.is_dir():
            raise UserError(f"--out: {file} is a folder: choose another name")
        if file.exists() and not is_ours(file, beginning.encode()):
            raise UserError(f"--out: {file} exists, and --mode classify did not write it: choose another name")
    for folder in out.absolute().parents:
        if folder.is_symlink() and not folder.exists():
            raise UserError(f"cannot write {out} ({folder} is a broken link): choose another --out")
        if folder.exists():
            if not folder.is_dir():
                raise UserError(f"cannot write {out} ({folder} is not a folder): choose another --out")
            longest = max(len(os.fsencode(file.name)) for file in (out, page_file, by_class_file))
            refuse_unwritable(folder, longest * "-", remedy="choose another --out")  # it may be above the file's folder
            break


def is_ours(file: Path, beginning: bytes) -> bool:
    """True if this file is empty, or begins like the files that --mode classify writes."""
    if not file.is_file():
        return False
    with open(file, "rb") as content:
        return content.read(len(beginning)) in (beginning, b"")


# ---- pictures


def support_files(path: Path | None) -> tuple[list[tuple[str, Path]], list[str]]:
    """Return the label and the file of each support picture, from a folder or a table, and notes on other files. Raise
    UserError if there is none."""
    if path is None:
        raise UserError("--support is missing: name the folder or the table of the support pictures")
    if path.is_dir():
        walk = Walk()
        return walk.files_by_class(path), walk.notes()
    if path.is_file() and path.suffix.lower() == ".csv":
        return read_labels(path), []
    raise UserError(f"--support {path} is neither a folder nor a table (.csv): name that of the support pictures")


def query_files(folder: Path | None) -> tuple[list[Path], list[str]]:
    """Return all pictures below a folder, by name, and notes on other files. Raise UserError if there is none."""
    if folder is None:
        raise UserError("--query is missing: name the folder of the query pictures")
    if not folder.is_dir():
        raise UserError(f"--query {folder} is not a folder: name the folder of the query pictures")
    walk = Walk()
    files = walk.pictures_below(folder)
    if not files:
        raise UserError("; ".join([f"there is no picture below {folder}: give another --query", *walk.notes()]))
    return files, walk.notes()


def readable_only(
    labelled: list[tuple[str, Path]], files: list[Path], skip_bad: bool
) -> tuple[list[tuple[str, Path]], list[Path]]:
    """Return the support pictures, with their labels, and the query pictures that can be read. Raise UserError if one
    cannot and skip_bad is False, or if a class or the query set has none left."""
    good, bad = readable([file for _, file in labelled] + files, skip_bad)
    good, groups = set(good), {"query picture": files}
    for label, file in labelled:
        groups.setdefault(f"picture of the class {label}", []).append(file)
    for what, members in groups.items():
        if good.isdisjoint(members):
            names = set(map(str, members))
            raise UserError(f"no {what} is left: {report([fault for fault in bad if fault.args[0] in names])}")
    if bad:
        print(f"note: left out: {report(bad)}", file=sys.stderr)
    return [(label, file) for label, file in labelled if file in good], [file for file in files if file in good]
