"""Make DATA_DIR/<dataset>/: download a dataset, convert originals that you have, or draw it (glyphs).

    python get_data.py --dataset omniglot                      # through tensorflow-datasets
    python get_data.py --dataset omniglot --source FOLDER      # images_background.zip, images_evaluation.zip
    python get_data.py --dataset mimgnet                       # the authors' two .npy files
    python get_data.py --dataset mimgnet --source ARCHIVE.tar  # train.csv, val.csv, test.csv, images/*.jpg
    python get_data.py --dataset glyphs                        # drawn here, in seconds
    python get_data.py --dataset cifar_fs                      # a benchmark by its name (sources/benchmarks.py)
    python get_data.py --dataset cub --source FOLDER           # the same from FOLDER/class/*.jpg
    python get_data.py --dataset mine --source FOLDER          # your own images: FOLDER/class/*.jpg (docs/data.md)
    python get_data.py --dataset pets --source tfds:oxford_iiit_pet
    python get_data.py --dataset vectors --features FILE.npz   # of any network, and their labels (docs/data.md)
    python get_data.py --dataset vectors --source FOLDER --backbone MobileNetV3Small   # of a network of Keras
    python get_data.py --dataset omniglot --verify             # check the files against the manifest

It writes train.npy, val.npy (if the source has validation classes) and test.npy, each [base_classes, images_per_class,
H, W, C] (or [images, H, W, C], if classes differ in their numbers of images), and manifest.json, which says how to read
them: pixel = stored * scale, and class rotations * b + r is base class b turned by r quarter turns (np.rot90). A folder
is written completely or not at all. Wrong input ends with one sentence and exit code 2.
"""

import errno
import os
import sys
from collections.abc import Collection
from dataclasses import Field, dataclass, fields
from pathlib import Path
from typing import NamedTuple

from errors import UserError, run
from parameters import is_vector
from settings import CommandLine, Settings, by_owners, folder_name, setting, to_path
from sources.arrays import checksum, making, read_manifest
from sources.backbone import DOWNLOADED
from sources.class_split import WAY
from sources.maker import FROM_TFDS, TFDS, Variant, is_tfds
from sources.pictures import first_few
from sources.table import MAKERS, YOUR_IMAGES


@dataclass(frozen=True)
class CommandSettings(Settings):
    dataset: str | None = setting(
        None,
        f"{', '.join(MAKERS)}; or a name for your own images, with their --source or --features",
        folder_name,
        metavar="NAME",
    )
    data_dir: Path = setting(Path("data"), "folder of the datasets", to_path, metavar="DIR")
    verify: bool = setting(False, "only check the files against the manifest's checksums")
    force: bool = setting(False, "make the dataset again if it exists")


class Request(NamedTuple):
    """The dataset to make or check."""

    target: Path  # DATA_DIR/<dataset>
    variant: Variant
    settings: Settings  # of the variant
    force: bool
    verify: bool


def parse(argv: list[str] | None = None) -> Request:
    """Read the command line. Exit with one sentence and code 2 if a flag is wrong or would have no effect."""
    first = CommandLine("", "get_data.py", add_help=False)  # reads the flags that decide on the others
    first.add("", [*fields(CommandSettings), *deciding_flags()])
    first.add_argument("-h", "--help", action="store_true")
    flags = first.read(argv, all_known=False)
    dataset, source = flags.get("dataset"), flags.get("source")
    maker = MAKERS.get(dataset, YOUR_IMAGES)
    variant = maker.variant(flags)
    place = "--verify" if "verify" in flags else f"{dataset} {variant.title}".strip()
    line = CommandLine(place, "get_data.py", "Make DATA_DIR/<dataset>/.")
    line.add("dataset", [one for one in fields(CommandSettings) if one.name != "force" or "verify" not in flags])
    if "help" in flags:
        makers = {dataset: maker} if dataset else MAKERS | {"your own": YOUR_IMAGES}
        for names, declared in by_owners({name: one.flags() for name, one in makers.items()}).items():
            line.add(", ".join(names), declared)
    elif dataset is None:
        line.error("--dataset is missing: name the one to make")
    elif dataset not in MAKERS and not flags.keys() & {"source", "features", "verify"}:
        line.error(
            f"--dataset {dataset} is none of {', '.join(MAKERS)}: give the --source of your own images, or the "
            f"--features of vectors"
        )
    elif dataset in MAKERS and is_tfds(source or ""):
        line.error(f"--source {source} is for your own images: choose another name than {dataset}")
    elif "verify" not in flags:
        line.add(dataset, fields(variant.settings))
    flags = line.read(argv)
    command = CommandSettings.of(flags)
    return Request(command.data_dir / dataset, variant, variant.settings.of(flags), command.force, command.verify)


def deciding_flags() -> list[Field]:
    """Return the flags that choose the way to make a dataset."""
    makers = *MAKERS.values(), YOUR_IMAGES
    names = {variant.flag for maker in makers for variant in maker.variants}
    return list({one.name: one for maker in makers for one in maker.flags() if one.name in names}.values())


def refuse_other_settings(
    target: Path, manifest: dict, asked: dict[str, object], changed: Collection[str] = ()
) -> None:
    """Raise UserError if the manifest shows that the existing dataset was made with other settings. changed: the names
    of those that do not have their defaults."""
    prepare = manifest.get("prepare") or {}
    present_kind = "backbone" if "backbone" in prepare else "features" if is_vector(manifest["image_shape"]) else None
    if present_kind != next((name for name in ("features", "backbone") if name in asked), None):
        held = describe_images(manifest["image_shape"])
        raise UserError(
            f"{target} holds {held}, made from {manifest['source']['given']}: choose another name, or make it again "
            f"with --force"
        )
    given = manifest["source"]["given"]
    if asked.get("source") and target.name not in MAKERS and not is_same_source(str(asked["source"]), given):
        raise UserError(f"{target} was made from {given}: choose another name, or make it again with --force")
    for name in ("split_file", "features", "backbone_weights"):
        file = asked.get(name)
        if file and checksum(file)["sha256"] not in [one["sha256"] for one in manifest["source"]["files"]]:
            raise UserError(f"{target} was made with another --{name} than {file}: make it again with --force")
    present_settings = {
        "seed": manifest["split_seed"], "split_seed": manifest["split_seed"], "rotations": manifest["rotations"],
        "size": manifest["image_shape"][0], "shares": manifest.get("shares"), **prepare,
    }  # fmt: skip
    for name, present in present_settings.items():
        if None not in (present, asked.get(name)) and present != asked[name]:
            raise UserError(f"{target} has --{name} {present}, not {asked[name]}: make it again with --force")
    if (
        manifest["split_seed"] is None
        and target.name not in MAKERS
        and (idle := {"split_seed", "shares"} & set(changed))
    ):
        raise UserError(
            f"{target} was not split at random, so --{min(idle)} cannot apply: make it again with --force, and without "
            f"--split_file and folders named train and test"
        )
    if "backbone" in asked and not asked.get("backbone_weights") and prepare["weights"] != DOWNLOADED:
        raise UserError(f"{target} was made with a file of weights: give it as --backbone_weights, or add --force")


def is_same_source(asked: str, given: str) -> bool:
    """True if a --source is what a manifest says that the dataset was made from. A relative path of another working
    folder is the same if its last part is."""
    if is_tfds(asked) or given.startswith(FROM_TFDS):
        name, wanted = (text.partition(":")[0] for text in (given.removeprefix(FROM_TFDS), asked.removeprefix(TFDS)))
        return is_tfds(asked) and f"{name}/".startswith(f"{wanted}/")  # versions may differ
    if os.path.exists(given):
        return os.path.realpath(asked) == os.path.realpath(given)
    return Path(asked).name == Path(given).name


def obtain(request: Request) -> tuple[dict, str]:
    """Make the dataset, check it, or leave it alone -> its manifest, and a remark on what was done."""
    target, variant, settings, force, verify = request
    if verify:
        return read_manifest(target, MAKERS, checksums=True), "; checksums agree"
    if (target / "manifest.json").is_file() and not force:
        manifest = read_manifest(target, MAKERS)
        changed = {one.name for one in fields(settings) if getattr(settings, one.name) != one.default}
        refuse_other_settings(target, manifest, settings.values(), changed)
        return manifest, f"; it is complete, made from {manifest['source']['given']} (--force makes it again)"
    source = getattr(settings, "source", None)
    if source and not is_tfds(source) and Path(os.path.realpath(source)).is_relative_to(os.path.realpath(target)):
        raise UserError(f"--source {source} would be replaced by the dataset: move it elsewhere")
    with making(target, replace=force) as folder:
        return variant.make(folder, target, settings), ""


def images_per_class(entry: dict) -> list[int]:
    """The number of images of each class in a split's entry of the manifest."""
    counts = entry["images_per_class"]
    return counts if isinstance(counts, list) else [counts] * entry["base_classes"]


def describe(entry: dict) -> str:
    """Say how many classes a split has, and how many images its classes have."""
    counts = images_per_class(entry)
    most = f" to {max(counts)}" if min(counts) < max(counts) else ""
    return f"{entry['classes']} classes x {min(counts)}{most}"


def describe_images(image_shape: list[int]) -> str:
    """Say what the images are, or that they are vectors."""
    if is_vector(image_shape):
        return f"vectors of {image_shape[-1]} numbers"
    return f"images of {'x'.join(map(str, image_shape))}"


def largest_episodes(splits: dict[str, dict]) -> tuple[str, str]:
    """Say how large episodes can be with the smallest split and class -> a sentence, and a warning, which is empty if
    there are WAY classes or more."""
    way, split = min((entry["classes"], name) for name, entry in splits.items())
    sizes = [size for e in splits.values() for size in zip(images_per_class(e), e["names"], strict=False)]
    images, label = min(sizes)
    reason = "" if images == max(sizes)[0] else f" ({first_few([label])} has no more images)"
    sentence = f"tasks: --way at most {way} ({split} has no more classes), --shot + --query at most {images}{reason}"
    if way >= WAY:
        return sentence, ""
    remedy = f"train with --way {way}, or give more classes" if way > 1 else "give more classes, or other --shares"
    return sentence, f"warning: there are too few classes for --way {WAY}, which the documented commands use: {remedy}"


def main(argv: list[str] | None = None) -> None:
    """Run the command line. UserError for every fault that is no defect of this program."""
    request = parse(argv)
    try:
        manifest, remark = obtain(request)
    except OSError as fault:
        where = f"{fault.filename}: " if fault.filename else ""
        full = fault.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        remedy = "free some space" if full else "check that it exists and may be read and written"
        what = f"{where}{fault.strerror or fault} (making {request.target})"
        raise UserError(f"{what}: {remedy}, or give another --data_dir") from None
    counts = ", ".join(f"{name} {describe(entry)}" for name, entry in manifest["splits"].items())
    remark = ("" if "val" in manifest["splits"] else "; no validation classes") + remark
    remark += f"; {manifest['left_out']} pictures left out" if manifest.get("left_out") else ""
    print(f"{request.target}: {counts} {describe_images(manifest['image_shape'])}{remark}")
    sentence, warning = largest_episodes(manifest["splits"])
    print(sentence)
    if warning:
        print(warning, file=sys.stderr)


if __name__ == "__main__":
    run(main)
