"""Make DATA_DIR/<dataset>/ from public addresses, from originals that you have, or from nothing (glyphs).

    python get_data.py --dataset omniglot                      # through tensorflow-datasets
    python get_data.py --dataset omniglot --source FOLDER      # images_background.zip, images_evaluation.zip
    python get_data.py --dataset mimgnet                       # the authors' two .npy files
    python get_data.py --dataset mimgnet --source ARCHIVE.tar  # train.csv, val.csv, test.csv, images/*.jpg
    python get_data.py --dataset glyphs                        # drawn here, in seconds
    python get_data.py --dataset omniglot --verify             # are the files what the manifest says?

It leaves train.npy, val.npy (where the source has validation classes) and test.npy, each
[base_classes, images_per_class, H, W, C], and manifest.json, which says how to read them: pixel = stored *
scale, and class rotations * b + r is base class b turned by r quarter turns (np.rot90). A folder appears
whole or not at all. Each faulty input is a UserError: one sentence, exit code 2.
"""

import errno
from pathlib import Path
from typing import NamedTuple

from datasets.arrays import making, read_manifest
from datasets.maker import Variant, all_flags, nonempty_path
from datasets.table import MAKERS
from errors import Parser, UserError, run
from flags import Setting

DATA_DIR = Setting(Path("data"), "folder of the datasets", nonempty_path)
FORCE = Setting(False, "make it again even if it is there")
VERIFY = Setting(False, "only check the files against the manifest's checksums")


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
    parser.add_argument("--dataset", required=True, choices=MAKERS)
    for name, setting in {"data_dir": DATA_DIR, **all_flags(MAKERS), "force": FORCE, "verify": VERIFY}.items():
        setting.add(parser, name)
    values = vars(parser.parse_args(argv))

    dataset, target = values.pop("dataset"), values.pop("data_dir", DATA_DIR.default)
    variant = MAKERS[dataset].variant(values.get("source"))
    task, accepted = f"{dataset} {variant.title}".strip(), [*variant.settings, "force"]
    if "verify" in values:
        task, accepted = "--verify", ["verify"]
    for name in values.keys() - accepted:
        takes = ", ".join(f"--{flag}" for flag in ("dataset", "data_dir", *accepted))
        parser.error(f"--{name} has no meaning for {task}, which takes {takes}")
    settings = {name: values.get(name, setting.default) for name, setting in variant.settings.items()}
    return Request(target / dataset, variant, settings, "force" in values, "verify" in values)


def refuse_other_settings(target: Path, manifest: dict, settings: dict[str, object]) -> None:
    """UserError where the dataset that is there was made with another seed or size."""
    for name, present in (("seed", manifest["split_seed"]), ("size", manifest["image_shape"][0])):
        if None not in (present, settings.get(name)) and present != settings[name]:
            raise UserError(f"{target} has --{name} {present}, not {settings[name]}: make it again with --force")


def obtain(request: Request) -> tuple[dict, str]:
    """The dataset's manifest, and what more there is to say: the dataset is checked, or left alone, or made."""
    target, variant, settings, force, verify = request
    if verify:
        return read_manifest(target, checksums=True), "; checksums agree"
    if (target / "manifest.json").is_file() and not force:
        manifest = read_manifest(target)
        refuse_other_settings(target, manifest, settings)
        return manifest, f"; it is complete, made from {manifest['source']['given']} (--force makes it again)"
    source = settings.get("source")
    if source and source.resolve().is_relative_to(target.resolve()):
        raise UserError(f"--source {source} is what would be replaced: move it elsewhere")
    with making(target) as folder:
        return variant.make(folder, target, **settings), ""


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
    counts = ", ".join(f"{name} {split['classes']} classes x {split['images_per_class']}" for name, split in splits)
    print(f"{request.target}: {counts} images of {'x'.join(map(str, manifest['image_shape']))}{remark}")


if __name__ == "__main__":
    run(main)
