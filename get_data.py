"""Make DATA_DIR/<dataset>/ from public addresses, from originals that you have, or from nothing (glyphs).

    python get_data.py --dataset omniglot                      # through tensorflow-datasets
    python get_data.py --dataset omniglot --source FOLDER      # images_background.zip, images_evaluation.zip
    python get_data.py --dataset mimgnet                       # the authors' two .npy files
    python get_data.py --dataset mimgnet --source ARCHIVE.tar  # train.csv, val.csv, test.csv, images/*.jpg
    python get_data.py --dataset glyphs                        # drawn here, in seconds
    python get_data.py --dataset mine --source FOLDER          # your own images: FOLDER/class/*.jpg (docs/data.md)
    python get_data.py --dataset pets --source tfds:oxford_iiit_pet
    python get_data.py --dataset omniglot --verify             # are the files what the manifest says?

It leaves train.npy, val.npy (where the source has validation classes) and test.npy, each
[base_classes, images_per_class, H, W, C] (or [images, H, W, C], where classes differ in their numbers of images), and
manifest.json, which says how to read them: pixel = stored *
scale, and class rotations * b + r is base class b turned by r quarter turns (np.rot90). A folder appears
whole or not at all. Each faulty input is a UserError: one sentence, exit code 2.
"""

import argparse
import errno
import sys
from pathlib import Path
from typing import NamedTuple

from errors import Parser, UserError, run
from flags import Setting, to_path
from sources import MAKERS, YOUR_IMAGES
from sources.arrays import checksum, making, read_manifest
from sources.images import WAY
from sources.maker import Variant, all_flags, is_tfds
from sources.pictures import first_few

DATA_DIR = Setting(Path("data"), "folder of the datasets", to_path)
FORCE = Setting(False, "make it again even if it is there")
VERIFY = Setting(False, "only check the files against the manifest's checksums")


def folder_name(text: str) -> str:
    """A reader of datasets' names."""
    if not text or Path(text).name != text or text.startswith("."):
        raise argparse.ArgumentTypeError(f"must be a name for a folder below --data_dir, not {text!r}")
    return text


class Request(NamedTuple):
    """What the command line asks for. settings: a value for each of the variant's settings."""

    target: Path  # DATA_DIR/<dataset>
    variant: Variant
    settings: dict[str, object]
    force: bool
    verify: bool


def parse(argv: list[str] | None) -> Request:
    """The command line; leaves with a sentence and exit code 2 where a flag is wrong, or would do nothing."""
    parser = Parser(description="Make DATA_DIR/<dataset>/.")
    names = f"{', '.join(MAKERS)}; or a name for your own images, with their --source"
    parser.add_argument("--dataset", required=True, type=folder_name, metavar="NAME", help=names)
    flags = all_flags(MAKERS | {"your own": YOUR_IMAGES})
    for name, setting in {"data_dir": DATA_DIR, **flags, "force": FORCE, "verify": VERIFY}.items():
        setting.add(parser, name)
    values = vars(parser.parse_args(argv))

    dataset, target = values.pop("dataset"), values.pop("data_dir", DATA_DIR.default)
    if dataset not in MAKERS and not {"source", "verify"} & values.keys():
        parser.error(f"--dataset {dataset} is none of {', '.join(MAKERS)}: give the --source of your own images")
    if dataset in MAKERS and is_tfds(values.get("source", "")):
        parser.error(f"--source {values['source']} is for your own images: choose another name than {dataset}")
    variant = MAKERS.get(dataset, YOUR_IMAGES).variant(values.get("source"))
    task, accepted = f"{dataset} {variant.title}".strip(), [*variant.settings, "force"]
    if "verify" in values:
        task, accepted = "--verify", ["verify"]
    for name in values.keys() - accepted:
        takes = ", ".join(f"--{flag}" for flag in ("dataset", "data_dir", *accepted))
        parser.error(f"--{name} has no meaning for {task}, which takes {takes}")
    settings = {name: values.get(name, setting.default) for name, setting in variant.settings.items()}
    for name, setting in variant.settings.items():
        if not setting.accepts(settings[name]):  # the makers that share a flag have different ranges
            parser.error(f"--{name} {settings[name]} cannot be for {task}: {setting.help}")
    return Request(target / dataset, variant, settings, "force" in values, "verify" in values)


def refuse_other_settings(target: Path, manifest: dict, settings: dict[str, object]) -> None:
    """UserError where the dataset that is there was made with other settings, as far as the manifest tells."""
    present_settings = {
        "seed": manifest["split_seed"], "split_seed": manifest["split_seed"], "rotations": manifest["rotations"],
        "size": manifest["image_shape"][0], "shares": manifest.get("shares"), **(manifest.get("prepare") or {}),
    }  # fmt: skip
    table = settings.get("split_file")
    if table and checksum(table)["sha256"] not in [file["sha256"] for file in manifest["source"]["files"]]:
        raise UserError(f"{target} was dealt by another --split_file than {table}: make it again with --force")
    for name, present in present_settings.items():
        if None not in (present, settings.get(name)) and present != settings[name]:
            raise UserError(f"{target} has --{name} {present}, not {settings[name]}: make it again with --force")


def obtain(request: Request) -> tuple[dict, str]:
    """The dataset's manifest, and what more there is to say: the dataset is checked, or left alone, or made."""
    target, variant, settings, force, verify = request
    if verify:
        return read_manifest(target, checksums=True, makers=MAKERS), "; checksums agree"
    if (target / "manifest.json").is_file() and not force:
        manifest = read_manifest(target, makers=MAKERS)
        refuse_other_settings(target, manifest, settings)
        return manifest, f"; it is complete, made from {manifest['source']['given']} (--force makes it again)"
    source = settings.get("source")
    if source and not is_tfds(source) and source.resolve().is_relative_to(target.resolve()):
        raise UserError(f"--source {source} is what would be replaced: move it elsewhere")
    with making(target) as folder:
        return variant.make(folder, target, **settings), ""


def numbers(split: dict) -> str:
    """How many images its classes have."""
    counts = split["images_per_class"]
    return f"{min(counts)} to {max(counts)}" if isinstance(counts, list) else str(counts)


def largest_tasks(splits: dict[str, dict]) -> tuple[str, str]:
    """Return a sentence on the tasks that the smallest split and the smallest class allow, and a warning where these
    have fewer than WAY classes, else an empty text."""
    way, split = min((entry["classes"], name) for name, entry in splits.items())
    sizes = [size for entry in splits.values() for size in images_by_class(entry)]
    images, label = min(sizes)
    reason = "" if images == max(sizes)[0] else f" ({first_few([label])} has no more images)"
    told = f"tasks: --way at most {way} ({split} has no more classes), --shot + --query at most {images}{reason}"
    if way >= WAY:
        return told, ""
    remedy = f"train with --way {way}, or give more classes" if way > 1 else "give more classes, or other --shares"
    return told, f"warning: there are too few classes for --way {WAY}, which the documented commands use: {remedy}"


def images_by_class(entry: dict) -> list[tuple[int, str]]:
    """Number of images and name of each class of a split."""
    counts = entry["images_per_class"]
    counts = counts if isinstance(counts, list) else [counts] * entry["base_classes"]
    return list(zip(counts, entry["names"], strict=False))


def main(argv: list[str] | None = None) -> None:
    """The command line. UserError for every fault that is not a defect of this program."""
    request = parse(argv)
    try:
        manifest, remark = obtain(request)
    except OSError as fault:
        where = f"{fault.filename}: " if fault.filename else ""
        full = fault.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        remedy = "free some space" if full else "check that it exists and may be read and written"
        what = f"{where}{fault.strerror or fault} (making {request.target})"
        raise UserError(f"{what}: {remedy}, or give another --data_dir") from None
    splits = manifest["splits"].items()
    counts = ", ".join(f"{name} {split['classes']} classes x {numbers(split)}" for name, split in splits)
    remark = ("" if "val" in manifest["splits"] else "; no validation classes") + remark
    remark += f"; {manifest['left_out']} pictures left out" if manifest.get("left_out") else ""
    print(f"{request.target}: {counts} images of {'x'.join(map(str, manifest['image_shape']))}{remark}")
    told, warning = largest_tasks(manifest["splits"])
    print(told)
    if warning:
        print(warning, file=sys.stderr)


if __name__ == "__main__":
    run(main)
