"""Meta-train, meta-test, export and compare few-shot learners: python main.py --mode MODE --savedir D [flags].

meta_train writes D/config.json; the other modes read it and need no other flag.
"""

import argparse
import contextlib
import json
import math
import os
import platform
import sys
from pathlib import Path

import results
from errors import Parser, UserError, run

DEFAULTS = {}
# What a test may choose for itself; everything else that config.json holds is the trained model's.
TEST_CHOICES = {
    "shot", "query", "metabatch", "n_steps", "inner_lr", "seed", "n_test_iters", "n_test_mc_samp",
    "checkpoint", "data_dir", "gpu_id",
}  # fmt: skip
RESUME_CHOICES = {
    "n_train_iters",
    "save_freq",
    "data_dir",
    "gpu_id",
    "checkpoint",
    "n_test_iters",
    "n_test_mc_samp",
}
NOT_KEPT = {"seed", "gpu_id", "checkpoint", "n_test_iters"}  # so that all runs meet the same test episodes


def whole(least: int):
    def parse(text):
        if not text.lstrip("-").isdigit() or int(text) < least:
            raise argparse.ArgumentTypeError(f"must be a whole number of at least {least}, not {text!r}")
        return int(text)

    return parse


def positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"must be a number above 0, not {text!r}")
    return value


def parser() -> Parser:
    p = Parser(
        prog="main.py",
        description=__doc__.split("\n\n")[0],
        epilog=__doc__.split("\n\n")[1],
        argument_default=argparse.SUPPRESS,
    )

    def flag(group, name, default, text, **kind):
        DEFAULTS[name] = default
        shown = "" if default is None or default is False else f" (default: {default})"
        group.add_argument(f"--{name}", help=text + shown, **kind)

    run_ = p.add_argument_group("run")
    flag(run_, "mode", "meta_train", "what to do", choices=list(MODES))
    flag(run_, "savedir", None, "folder of the run; compare takes two or more", nargs="+", metavar="D")
    flag(run_, "resume", False, "meta_train: go on from D's last checkpoint", action="store_true")
    flag(run_, "seed", 0, "seed of weights, episodes and noise; in meta_test of its episodes and noise, "
         "the same for every learner", type=whole(0), metavar="N")  # fmt: skip
    flag(
        run_,
        "gpu_id",
        None,
        "GPU to use; -1 for none (default: CUDA_VISIBLE_DEVICES, or 0)",
        type=whole(-1),
        metavar="N",
    )

    tasks = p.add_argument_group("data and tasks")
    flag(tasks, "dataset", "omniglot", "as made by get_data.py", choices=["omniglot", "mimgnet", "glyphs"])
    flag(tasks, "data_dir", "data", "folder that holds the datasets", metavar="DIR")
    flag(tasks, "train_split", "train", "classes to train on: trainval adds the validation classes (Omniglot: "
         "the paper's 4800), which are then not monitored", choices=["train", "trainval"])  # fmt: skip
    flag(tasks, "way", 20, "classes a task", type=whole(2), metavar="N")
    flag(tasks, "shot", 1, "support images a class", type=whole(1), metavar="N")
    flag(tasks, "query", 5, "query images a class", type=whole(1), metavar="N")
    flag(tasks, "metabatch", 16, "tasks a meta-iteration; in meta_test, tasks computed together (no effect on "
         "the result)", type=whole(1), metavar="N")  # fmt: skip
    flag(tasks, "legacy_shared_classes", False, "all tasks of a metabatch have the same classes, as in the TF1 "
         "code's last revision", action="store_true")  # fmt: skip

    learner = p.add_argument_group("learner")
    flag(learner, "model", "metadrop", "which learner", choices=["maml", "metadrop"])
    flag(learner, "maml", False, "the same as --model maml", action="store_true")
    flag(learner, "channels", None, "channels of a convolution (default: 64 for grey images, 32 for colour)",
         type=whole(1), metavar="N")  # fmt: skip
    flag(learner, "n_steps", 5, "inner gradient steps", type=whole(0), metavar="N")
    flag(learner, "inner_lr", 0.1, "step size of the inner loop", type=positive, metavar="X")
    flag(learner, "meta_gradient", "published", "published: second order with batch norm's backward pass held "
         "constant, as the paper's code computes it; exact: full second order; first_order: none",
         choices=["published", "exact", "first_order"])  # fmt: skip

    train = p.add_argument_group("meta_train")
    flag(train, "meta_lr", 1e-3, "Adam's step size in the outer loop", type=positive, metavar="X")
    flag(train, "n_train_iters", 60000, "meta-iterations (one update more, as in the TF1 code)",
         type=whole(0), metavar="N")  # fmt: skip
    flag(train, "save_freq", 1000, "iterations between checkpoints", type=whole(1), metavar="N")
    flag(train, "val_every", 1000, "iterations between validations; 0 for none", type=whole(0), metavar="N")
    flag(train, "n_val_tasks", 200, "episodes of a validation", type=whole(1), metavar="N")

    test = p.add_argument_group("meta_test")
    flag(test, "n_test_iters", 1000, "test episodes", type=whole(1), metavar="N")
    flag(test, "n_test_mc_samp", 1, "noise samples of an inner step's loss, in testing (the paper: 30; "
         "training takes 1)", type=whole(1), metavar="N")  # fmt: skip
    flag(test, "checkpoint", "last", "last: the paper's choice; best: highest validation accuracy",
         choices=["last", "best"])  # fmt: skip

    look = p.add_argument_group("export (the flags of meta_test apply, and --way: the tasks' classes, default 2)")
    flag(look, "export_tasks", 10, "test tasks", type=whole(1), metavar="N")
    flag(look, "export_samples", 10, "perturbed copies of a support image's features", type=whole(1), metavar="N")
    flag(look, "export_images", 2, "support images a task whose lower layers' maps are kept", type=whole(1),
         metavar="N")  # fmt: skip
    flag(look, "export_channels", 6, "channels of those maps, evenly spread", type=whole(1), metavar="N")
    return p


def trained_settings(settings: dict) -> dict:
    """What config.json keeps: all that describes the run, but not where or how it is called or looked at."""
    gone = ("mode", "savedir", "resume", "maml")
    return {k: v for k, v in settings.items() if k not in gone and not k.startswith("export_")}


def read_config(savedir: Path) -> dict:
    return results.read_config(savedir, trained_settings(DEFAULTS))


def read_trained(savedir: Path) -> dict:
    """The run's settings, with a test's own defaults in place of the training's."""
    return read_config(savedir) | {k: DEFAULTS[k] for k in NOT_KEPT}


def merge(given: dict, config: dict, may_differ: set[str], remedy: str) -> dict:
    """The run's settings with what was given on the command line; UserError at a contradiction."""
    for name, value in given.items():
        if name in config and name not in may_differ and value != config[name]:
            raise UserError(f"--{name} {value} contradicts the run, which has {config[name]}: {remedy}")
    return config | given


@contextlib.contextmanager
def quiet():
    """TensorFlow reports on its start to file descriptor 2, before any log level holds: keep it off."""
    sys.stderr.flush()
    kept, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(null)


def start(settings: dict) -> tuple[int, bool]:
    """Import TensorFlow as these settings want it; -> how many tasks a CPU computes side by side, is there a GPU?"""
    if settings["gpu_id"] is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = str(settings["gpu_id"])
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "0")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with quiet():
        import tensorflow as tf

        gpu = bool(tf.config.list_physical_devices("GPU"))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    parallel = min(cores, settings["metabatch"])
    tf.config.threading.set_inter_op_parallelism_threads(parallel)
    tf.config.threading.set_intra_op_parallelism_threads(max(1, cores // parallel))
    tf.config.experimental.enable_op_determinism()
    return parallel, gpu


def build_engine(settings: dict, image_shape: tuple[int, int, int]):
    """Set TensorFlow up, and make the engine of these settings."""
    parallel, gpu = start(settings)
    import engine
    import model

    learner = model.LEARNERS[settings["model"]](
        image_shape=image_shape,
        channels=settings["channels"] or (64 if image_shape[-1] == 1 else 32),
        way=settings["way"],
        n_steps=settings["n_steps"],
        inner_lr=settings["inner_lr"],
        meta_gradient=settings["meta_gradient"],
        jit=gpu,
    )
    return engine.Engine(
        learner,
        shot=settings["shot"],
        query=settings["query"],
        metabatch=settings["metabatch"],
        seed=settings["seed"],
        meta_lr=settings["meta_lr"],
        parallel=parallel,
    )


def build(settings: dict):
    """-> the engine, and the dataset, which must be able to give such episodes."""
    import data

    dataset = data.load(settings["data_dir"], settings["dataset"])
    for name, split in dataset.splits.items():
        data.check_episode(split, name, settings["way"], settings["shot"], settings["query"])
    return build_engine(settings, dataset.image_shape), dataset


def meta_train(savedir: Path, given: dict) -> int:
    if (savedir / "config.json").exists():
        if not given.get("resume"):
            raise UserError(
                f"{savedir} holds a run already: add --resume to go on with it, or choose another --savedir"
            )
        settings = merge(
            given, read_config(savedir), RESUME_CHOICES, "resume without it, or train in another --savedir"
        )
    else:
        settings = DEFAULTS | given
    import data

    engine, dataset = build(settings)
    both = settings["train_split"] == "trainval"
    split = data.trainval(dataset) if both else dataset.splits["train"]
    val = None if both or not settings["val_every"] else dataset.splits.get("val")
    kept = trained_settings(settings)
    import train

    try:
        savedir.mkdir(parents=True, exist_ok=True)
        kept |= {"python": platform.python_version(), "tensorflow": train.tf.__version__}
        results.write_atomically(savedir / "config.json", json.dumps(kept, indent=1) + "\n")
    except OSError as fault:
        raise UserError(f"cannot write into {savedir} ({fault.strerror}): choose another --savedir") from fault
    if val is None:
        print("no validation: training is not monitored, and there will be no best checkpoint")
    return train.meta_train(
        engine,
        split,
        val,
        savedir,
        n_train_iters=settings["n_train_iters"],
        save_freq=settings["save_freq"],
        val_every=settings["val_every"],
        n_val_tasks=settings["n_val_tasks"],
        settings=kept,
        shared_classes=settings["legacy_shared_classes"],
    )


def meta_test(savedir: Path, given: dict) -> int:
    config = read_trained(savedir)
    settings = merge(given, config, TEST_CHOICES, "it cannot be changed in a test")
    engine, dataset = build(settings)
    import train

    shown = ("dataset", "model", "way", "shot", "query", "n_steps", "inner_lr", "meta_gradient", "seed")
    return train.meta_test(
        engine,
        dataset.splits["test"],
        savedir,
        n_test_iters=settings["n_test_iters"],
        samples=settings["n_test_mc_samp"],
        checkpoint=settings["checkpoint"],
        settings={k: settings[k] for k in shown},
    )


def export(savedir: Path, given: dict) -> int:
    config = read_trained(savedir)
    way = given.pop("way", 2)
    if way > config["way"]:
        raise UserError(f"--way {way} is more than the {config['way']} classes the run was trained for: export fewer")
    if "metabatch" in given:
        raise UserError("--metabatch has no meaning in an export, which takes its tasks one by one: leave it out")
    settings = DEFAULTS | merge(given, config, TEST_CHOICES, "it cannot be changed in an export")
    engine, dataset = build(settings | {"metabatch": 1})
    import export as exporter

    shown = ("dataset", "model", "shot", "query", "n_steps", "inner_lr", "meta_gradient", "seed", "n_test_mc_samp")
    return exporter.export(
        engine,
        dataset.splits["test"],
        savedir,
        way=way,
        tasks=settings["export_tasks"],
        copies=settings["export_samples"],
        images=settings["export_images"],
        channels=settings["export_channels"],
        samples=settings["n_test_mc_samp"],
        checkpoint=settings["checkpoint"],
        settings={"way": way, "trained_way": config["way"]} | {k: settings[k] for k in shown},
    )


def compare(savedirs: list[Path]) -> int:
    if len(savedirs) < 2:
        raise UserError("--mode compare takes two or more folders: --savedir A B")
    return results.compare(savedirs)


MODES = {"meta_train": meta_train, "meta_test": meta_test, "export": export, "compare": compare}


def main() -> int:
    given = vars(parser().parse_args())
    mode = given.pop("mode", DEFAULTS["mode"])
    savedirs = [Path(d) for d in given.pop("savedir", [])]
    if not savedirs:
        raise UserError("--savedir is missing: name the folder of the run, for example --savedir results/first")
    if given.pop("maml", False) and given.setdefault("model", "maml") != "maml":
        raise UserError(f"--maml contradicts --model {given['model']}: give one of them")
    if mode == "compare":
        return compare(savedirs)
    if len(savedirs) > 1:
        raise UserError(f"--mode {mode} takes one --savedir, not {len(savedirs)}")
    return MODES[mode](savedirs[0], given)


if __name__ == "__main__":
    run(main)
