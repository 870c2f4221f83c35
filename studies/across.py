"""Check that another dataset suits a trained run, for meta_test --across."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

import data
from errors import UserError
from parameters import is_vector
from ranges import UNIT
from sources.preparation import shape_of
from sources.table import MAKERS, YOUR_IMAGES
from training.config import Config


def check(trained: Config, tested: Config) -> None:
    """Raise UserError unless the run was trained on other data than those of `tested`, on images of the same shape and
    range, or on vectors of the same length and backbone. Print a warning if test classes have the names of training
    classes. The run's own dataset is read where it is, if it is there."""
    name, place = tested.run.dataset, f"{tested.run.data_dir}/{tested.run.dataset}"
    other = load(tested, tested.run.data_dir)
    if other.sha256 == trained.facts.get("data_sha256"):
        raise UserError(f"--across needs other data, and {place} has those that the run was trained on")
    own = own_dataset(trained, tested.run.data_dir)
    shape = trained_shape(trained, own)
    if shape != other.image_shape:
        wanted, found = ("x".join(map(str, one)) for one in (shape, other.image_shape))
        other_kind = shape[-1] != other.image_shape[-1] or is_vector(shape)
        has_size = any(flag.name == "size" for flag in MAKERS.get(name, YOUR_IMAGES).flags())
        remedy = f"make it at that size, with get_data.py --size {shape[0]} and another --data_dir"
        raise UserError(
            f"--across needs images of the shape that the run was trained on, {wanted}, and {place} has {found}: "
            f"{remedy if has_size and not other_kind else 'choose another dataset'}"
        )
    if is_vector(shape):
        if trained.facts.get("prepare") != other.prepare:
            raise UserError(
                f"--across needs vectors of the network that made those of {trained.run.dataset}, and {place} has "
                f"others: make them with the same --backbone and --backbone_weights"
            )
    else:
        check_range(trained, other, place)
    if own and own.sha256 == trained.facts.get("data_sha256"):
        warn_of_shared_classes(trained, own, other)


def load(config: Config, data_dir: str) -> data.Dataset:
    return data.load(data_dir, config.run.dataset, config.run.split == "background", MAKERS)


def own_dataset(trained: Config, data_dir: str) -> data.Dataset | None:
    """Return the dataset that the run was trained on, from data_dir or from where it was; None if it is not there or
    cannot be read."""
    for place in (data_dir, trained.run.data_dir):
        with contextlib.suppress(UserError):
            return load(trained, place)
    return None


def trained_shape(trained: Config, own: data.Dataset | None) -> tuple[int, int, int]:
    """Return the shape of the images that the run was trained on. own: its dataset, if that can be read. Raise
    UserError if neither the run nor its dataset says the shape."""
    run, prepare = trained.run, trained.facts.get("prepare")
    if prepare:
        return shape_of(prepare)
    if own is None and run.dataset in MAKERS and not (Path(run.data_dir) / run.dataset).exists():
        return MAKERS[run.dataset].image_shape  # an older version's run, on images of the default size
    return (own or load(trained, run.data_dir)).image_shape


def check_range(trained: Config, other: data.Dataset, place: str) -> None:
    """Raise UserError unless the inputs of the dataset in `place` have the range that the run was trained on."""
    known = trained.facts.get("range", list(UNIT))
    if known is None:
        raise UserError(
            f"--across needs the range of the inputs that the run was trained on, and {trained.run.dataset} did not "
            f"declare it: declare it in the dataset's manifest.json, and train again"
        )
    if known != list(data.known_range(other.splits["test"], "--across")):
        raise UserError(
            f"--across needs inputs of the range that the run was trained on, {known}, and {place} has "
            f"{list(other.range)}: choose another dataset"
        )


def warn_of_shared_classes(trained: Config, own: data.Dataset, other: data.Dataset) -> None:
    """Print a warning if test classes of the other dataset have the names of classes that the run was trained on."""
    used = ("train", "val") if trained.run.train_split == "trainval" else ("train",)
    known = {name for split in used if split in own.splits for name in own.splits[split].names}
    tested = other.splits["test"].names
    if shared := [name for name in tested if name in known]:
        print(
            f"warning: {len(shared)} of the {len(tested)} test classes of {other.name} have the names of classes that "
            f"the run was trained on ({shared[0]}, ...): if they are the same classes, the run has seen them",
            file=sys.stderr,
        )
