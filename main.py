"""Meta-train, test, export, measure and compare few-shot learners: python main.py --mode MODE --savedir D [flags].

meta_train writes D/config.json; the other modes read it and need no other flag.
"""

import argparse
import contextlib
import json
import math
from pathlib import Path

import data
import devices
import files
import results
from errors import Parser, UserError, run

DEFAULTS = {}
ACTIONS = {}  # flag -> argparse's action, which knows its type and choices
USED_BY = {}  # flag -> the modes that use it; a mode refuses all others. bench: bench.py
TRAINING, TESTS = {"meta_train", "bench"}, {"meta_test", "collapse"}
LEARNING = {"meta_train", "meta_test", "collapse", "export", "bench"}
# What a test may choose for itself; everything else that config.json holds is the trained model's.
TEST_CHOICES = {
    "shot", "query", "metabatch", "n_steps", "inner_lr", "seed", "n_test_iters", "n_test_mc_samp",
    "checkpoint", "data_dir", "gpu_id", "jit", "precision", "test_statistics",
}  # fmt: skip
RESUME_CHOICES = {"n_train_iters", "save_freq", "collapse_every", "data_dir", "gpu_id", "jit", "remat"}
# What config.json has to say; a setting that is newer than the run has its default.
NEEDED = ("dataset", "model", "way", "shot", "query", "seed")
NOT_KEPT = {"seed", "gpu_id", "jit", "checkpoint", "n_test_iters"}  # so that all runs meet the same test episodes


def whole(least: int, most: int | None = None):
    def parse(text):
        if not text.lstrip("-").isdigit() or int(text) < least:
            raise argparse.ArgumentTypeError(f"must be a whole number of at least {least}, not {text!r}")
        if most is not None and int(text) > most:
            raise argparse.ArgumentTypeError(f"must be a whole number of at most {most}, not {text!r}")
        return int(text)

    return parse


def gpus(text):
    numbers = text.split(",")
    if text != "-1" and not all(n.isdigit() for n in numbers):
        raise argparse.ArgumentTypeError(f"must be a GPU's number, several as in 0,1, or -1 for none, not {text!r}")
    return text


def positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"must be a number above 0, not {text!r}")
    return value


def rates(text: str) -> list[float]:
    try:
        values = [float(rate) for rate in text.split(",")]
    except ValueError:
        values = []
    if len(values) not in (3, 4) or not all(0 <= rate < 1 for rate in values):
        raise argparse.ArgumentTypeError(
            f"must be three or four rates from 0 to below 1, as in 0.05,0.1,0.15, not {text!r}"
        )
    return values


def parser() -> Parser:
    p = Parser(
        prog="main.py",
        description=__doc__.split("\n\n")[0],
        epilog=__doc__.split("\n\n")[1],
        argument_default=argparse.SUPPRESS,
    )

    def flag(group, name, default, text, modes=LEARNING, **kind):
        DEFAULTS[name], USED_BY[name] = default, modes
        shown = "" if default is None or default is False else f" (default: {default})"
        ACTIONS[name] = group.add_argument(f"--{name}", help=text + shown, **kind)

    run_ = p.add_argument_group("run")
    flag(run_, "mode", "meta_train", "what to do", modes={*MODES, "bench"}, choices=list(MODES))
    flag(run_, "savedir", None, "folder of the run; compare takes two or more", modes=set(MODES), nargs="+",
         metavar="D")  # fmt: skip
    flag(run_, "resume", False, "meta_train: go on from D's last checkpoint", modes={"meta_train"},
         action="store_true")  # fmt: skip
    flag(run_, "seed", 0, "seed of weights, episodes and noise; in meta_test of its episodes and noise, "
         "the same for every learner", type=whole(0, 2**31 - 1), metavar="N")  # fmt: skip
    flag(run_, "gpu_id", None, "GPU to use, or several to share a metabatch: 0,1; -1 for none "
         "(default: CUDA_VISIBLE_DEVICES, or 0)", type=gpus, metavar="N[,N]")  # fmt: skip
    flag(run_, "jit", "auto", "compile a metabatch into one XLA program; auto: on a GPU", choices=["auto", "on", "off"])
    flag(run_, "precision", "float32", "of convolutions and matrix products; tf32: on GPUs that have it; bf16: "
         "their factors in bfloat16", choices=devices.PRECISIONS)  # fmt: skip

    tasks = p.add_argument_group("data and tasks")
    flag(tasks, "dataset", "omniglot", "as made by get_data.py", choices=["omniglot", "mimgnet", "glyphs"])
    flag(tasks, "data_dir", "data", "folder that holds the datasets", metavar="DIR")
    flag(tasks, "split", "shuffled", "background: Omniglot's own, 964 characters to train on and 659 to test, upright; "
         "shuffled: as the dataset was dealt", choices=["shuffled", "background"])  # fmt: skip
    flag(tasks, "train_split", "train", "classes to train on: trainval adds the validation classes (Omniglot: "
         "the paper's 4800), which are then not monitored", modes=TRAINING,
         choices=["train", "trainval"])  # fmt: skip
    flag(tasks, "way", 20, "classes a task", type=whole(2), metavar="N")
    flag(tasks, "shot", 1, "support images a class", type=whole(1), metavar="N")
    flag(tasks, "query", 5, "query images a class", type=whole(1), metavar="N")
    flag(tasks, "metabatch", 16, "tasks a meta-iteration; in meta_test, tasks computed together (no effect on "
         "the result)", modes={"meta_train", "meta_test", "bench"}, type=whole(1), metavar="N")  # fmt: skip
    flag(tasks, "legacy_shared_classes", False, "all tasks of a metabatch have the same classes, as in the TF1 "
         "code's last revision", modes={"meta_train"}, action="store_true")  # fmt: skip

    learner = p.add_argument_group("learner")
    flag(learner, "model", "metadrop", "which learner; metadrop is maml with the perturbation noise",
         choices=["maml", "metadrop", "metanet_embedding", "metanet_original"])  # fmt: skip
    flag(learner, "maml", False, "the same as --model maml", action="store_true")
    flag(learner, "perturbation", None, "noise: learned (Meta-dropout); mask: of activations, the same for all of a "
         "task's images, in training only (default: noise for metadrop, none for the others)",
         choices=["none", "noise", "mask"])  # fmt: skip
    flag(learner, "mask_rates", [0.05, 0.1, 0.15], "shares that a mask takes away in blocks 1, 2, 3, and perhaps 4",
         type=rates, metavar="P,P,P[,P]")  # fmt: skip
    flag(learner, "mask_scaled", False, "multiply what a mask leaves by 1 / (1 - P)", action="store_true")
    flag(learner, "mask_support_only", False, "no mask on the query set", action="store_true")
    flag(learner, "mask_per_sample", False, "a mask for every image in every pass: ordinary dropout",
         action="store_true")  # fmt: skip
    flag(learner, "test_statistics", "running", "batch norm of Meta Networks in testing: by running averages, or by "
         "each batch", choices=["running", "batch"])  # fmt: skip
    flag(learner, "channels", None, "channels of a convolution (default: 64 for grey images, 32 for colour)",
         type=whole(1), metavar="N")  # fmt: skip
    flag(learner, "n_steps", 5, "inner gradient steps", type=whole(0), metavar="N")
    flag(learner, "inner_lr", 0.1, "step size of the inner loop", type=positive, metavar="X")
    flag(learner, "meta_gradient", "published", "published: second order with batch norm's backward pass held "
         "constant, as the paper's code computes it; exact: full second order; first_order: none",
         choices=["published", "exact", "first_order"])  # fmt: skip

    flag(learner, "remat", False, "compute inner steps again when they are differentiated, in place of keeping "
         "their maps: less memory, more time", modes=TRAINING, action="store_true")  # fmt: skip

    train, only = p.add_argument_group("meta_train"), {"meta_train"}
    flag(train, "meta_lr", 1e-3, "Adam's step size in the outer loop", modes=TRAINING, type=positive, metavar="X")
    flag(train, "clip_norm", None, "clip the meta-gradient's norm to X (default: every element to 3)", modes=TRAINING,
         type=positive, metavar="X")  # fmt: skip
    flag(train, "n_train_iters", 60000, "meta-iterations (one update more, as in the TF1 code)", modes=only,
         type=whole(0), metavar="N")  # fmt: skip
    flag(train, "save_freq", 1000, "iterations between checkpoints", modes=only, type=whole(1), metavar="N")
    flag(train, "val_every", 1000, "iterations between validations; 0 for none", modes=only, type=whole(0), metavar="N")
    flag(train, "n_val_tasks", 200, "episodes of a validation", modes=only, type=whole(1), metavar="N")
    flag(train, "collapse_every", 0, "iterations between measurements of neural collapse, into collapse.csv; 0 for "
         "none", modes=only, type=whole(0), metavar="N")  # fmt: skip

    test = p.add_argument_group("meta_test and collapse")
    flag(test, "n_test_iters", 1000, "test episodes, or tasks", modes=TESTS, type=whole(1), metavar="N")
    flag(test, "n_test_mc_samp", 1, "noise samples of an inner step's loss, in testing (the paper: 30) and in "
         "validations; training takes 1", type=whole(1), metavar="N")  # fmt: skip
    flag(test, "checkpoint", "last", "last: the paper's choice; best: highest validation accuracy",
         modes={*TESTS, "export"}, choices=["last", "best"])  # fmt: skip

    look, only = (
        p.add_argument_group("export (and those of meta_test; --way: the tasks' classes, default 2)"),
        {"export"},
    )
    flag(look, "export_tasks", 10, "test tasks", modes=only, type=whole(1), metavar="N")
    flag(look, "export_samples", 10, "perturbed copies of a support image's features", modes=only, type=whole(1),
         metavar="N")  # fmt: skip
    flag(look, "export_images", 2, "support images a task whose lower layers' maps are kept", modes=only,
         type=whole(1), metavar="N")  # fmt: skip
    flag(look, "export_channels", 6, "channels of those maps, evenly spread", modes=only, type=whole(1), metavar="N")
    return p


def refuse_unused(given, mode: str) -> None:
    """UserError where `mode` does not use one of these flags."""
    for name in given:
        if mode not in USED_BY[name]:
            where = "bench.py" if mode == "bench" else f"--mode {mode}"
            raise UserError(f"--{name} has no meaning in {where}: leave it out")


def trained_settings(settings: dict) -> dict:
    """What config.json keeps: all that describes the run, but not where or how it is called or looked at."""
    elsewhere = {"mode", "savedir", "resume", "maml", "n_test_iters", "checkpoint"}
    return {k: v for k, v in settings.items() if k not in elsewhere and not k.startswith("export_")}


def read_config(savedir: Path) -> dict:
    """The settings of savedir's run. UserError where one is not what its flag could be."""
    config = trained_settings(DEFAULTS) | results.read_config(savedir, NEEDED)
    for name in DEFAULTS.keys() & config.keys():
        if config[name] != DEFAULTS[name] and not is_value(name, config[name]):
            raise UserError(
                f"{savedir / 'config.json'} has {name} {config[name]!r}, which no --{name} can be: it was changed, or "
                f"is of another version of this program"
            )
    return config


def is_value(name: str, value) -> bool:
    """Could the flag `name` have this value?"""
    action = ACTIONS[name]
    if action.nargs == 0:
        return isinstance(value, bool)
    text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
    try:
        return (action.type or str)(text) == value and (action.choices is None or value in action.choices)
    except argparse.ArgumentTypeError:
        return False


def read_trained(savedir: Path) -> dict:
    """The run's settings, with a test's own defaults in place of the training's."""
    return read_config(savedir) | {k: DEFAULTS[k] for k in NOT_KEPT}


def merge(given: dict, config: dict, may_differ: set[str], remedy: str) -> dict:
    """The run's settings with what was given on the command line; UserError at a contradiction."""
    for name, value in given.items():
        if name in config and name not in may_differ and value != config[name]:
            raise UserError(f"--{name} {value} contradicts the run, which has {config[name]}: {remedy}")
    return config | given


def load_data(settings: dict, *used: str) -> tuple[data.Dataset, dict[str, data.Split]]:
    """The dataset, and its splits as these settings want them.

    used: names of the splits that have to be able to give such episodes. UserError where one cannot, or where the data
    are not those that the run knows.
    """
    dataset = data.load(settings["data_dir"], settings["dataset"], settings["split"] == "background")
    if settings.get("data_sha256") not in (None, dataset.sha256):
        raise UserError(
            f"{settings['data_dir']}/{dataset.name} holds other data than the run was trained on (other checksums): "
            f"give the folder of those as --data_dir"
        )
    splits = dict(dataset.splits)
    if settings["train_split"] == "trainval":
        splits["train"] = data.trainval(dataset)
        splits.pop("val", None)
    for name in splits.keys() & set(used):
        data.check_episode(splits[name], name, settings["way"], settings["shot"], settings["query"])
    return dataset, splits


def build_engine(settings: dict, image_shape: tuple[int, int, int], given=(), distribute: bool = False):
    """Set TensorFlow up, and make the engine of these settings; -> it, and the devices.

    given: names of the flags on the command line; UserError where one means nothing to this learner.
    """
    machine = devices.start(settings["gpu_id"], settings["metabatch"], settings["precision"], distribute)
    replicas = machine.strategy.num_replicas_in_sync
    if settings["metabatch"] % replicas:
        raise UserError(
            f"--metabatch {settings['metabatch']} cannot be shared evenly by {replicas} devices: "
            f"choose a multiple of {replicas}"
        )
    import engine
    import learners

    name = settings["model"], settings["perturbation"]
    try:
        taken = learners.settings_of(*name)
        if idle := sorted((learners.SPECIAL - taken) & set(given)):
            raise UserError(
                f"--{idle[0]} has no meaning for --model {name[0]}"
                + (f" --perturbation {name[1]}" if name[1] else "")
                + ": leave it out, or choose another"
            )
        learner = learners.make(
            *name,
            image_shape=image_shape,
            channels=settings["channels"] or (64 if image_shape[-1] == 1 else 32),
            way=settings["way"],
            bf16=settings["precision"] == devices.BF16,
            jit=machine.gpu if settings["jit"] == "auto" else settings["jit"] == "on",
            **{k: settings[k] for k in taken},
        )
    except ValueError as fault:
        raise UserError(f"{fault}") from fault
    engine_ = engine.Engine(
        learner,
        shot=settings["shot"],
        query=settings["query"],
        metabatch=settings["metabatch"],
        seed=settings["seed"],
        meta_lr=settings["meta_lr"],
        clip_norm=settings["clip_norm"],
        parallel=machine.parallel,
        strategy=machine.strategy,
    )
    return engine_, machine


def training_settings(savedir: Path, given: dict) -> dict:
    """The settings of a run that begins in savedir, or, with --resume, goes on there."""
    if not (savedir / "config.json").exists():
        return DEFAULTS | given
    if not given.get("resume"):
        raise UserError(f"{savedir} holds a run already: add --resume to go on with it, or choose another --savedir")
    remedy = "resume without it, or train in another --savedir"
    return DEFAULTS | merge(given, read_config(savedir), RESUME_CHOICES, remedy)


def meta_train(savedir: Path, given: dict) -> int:
    # Every worker looks, and worker 0 writes into savedir only when all of them have come.
    settings = training_settings(savedir, given)
    dataset, splits = load_data(settings, "train", *["val"] * bool(settings["val_every"]))
    engine, machine = build_engine(settings, dataset.image_shape, given, distribute=True)
    import learners
    import train

    print(f"device: {machine.name}")
    idle = learners.SPECIAL - learners.settings_of(settings["model"], settings["perturbation"])
    kept = {k: v for k, v in trained_settings(settings).items() if k not in idle} | {"data_sha256": dataset.sha256}
    sessions = kept.pop("sessions", [])

    def begin(first: int) -> None:
        """Write config.json; a session in which nothing is left to train is not one."""
        if machine.chief:
            more = first <= settings["n_train_iters"]
            trained_by = with_session(sessions, devices.provenance(machine.name)) if more else sessions
            content = json.dumps(kept | {"sessions": trained_by}, indent=1) + "\n"
            files.write_atomically(savedir / "config.json", content)

    busy = f"is training in {savedir}: wait for it, or choose another --savedir"
    with files.locked(savedir / "meta_train.lock", busy) if machine.chief else contextlib.nullcontext():
        val = splits.get("val") if settings["val_every"] else None
        watch = None
        if machine.chief:
            training_settings(savedir, given)  # again: another process may have begun here in the meantime
            if settings["collapse_every"]:
                import study

                study.refuse_unfit(engine, settings)
                watch = study.Watch(engine, splits["train"], savedir, settings["legacy_shared_classes"])
            if val is None:
                print("no validation: training is not monitored, and there will be no best checkpoint")
        return train.meta_train(
            engine,
            splits["train"],
            val,
            savedir,
            n_train_iters=settings["n_train_iters"],
            save_freq=settings["save_freq"],
            val_every=settings["val_every"],
            n_val_tasks=settings["n_val_tasks"],
            val_samples=settings["n_test_mc_samp"],
            settings=kept,
            shared_classes=settings["legacy_shared_classes"],
            alone=machine.alone,
            chief=machine.chief,
            begin=begin,
            watch=watch,
            watch_every=settings["collapse_every"],
        )


def with_session(sessions: list[dict], session: dict) -> list[dict]:
    """The programs and devices that a run was trained with, in order; one that goes on alike is not a new one."""
    same = ("program", "tensorflow", "device")
    alike = sessions and all(sessions[-1].get(k) == session[k] for k in same)
    return sessions if alike else [*sessions, session]


def build(settings: dict, given: dict, way: int):
    """For the modes that look at a trained run -> its engine, its test split, and what tells and made the result.

    way: classes of a test's tasks.
    """
    dataset, splits = load_data(settings | {"way": way}, "test")
    engine, machine = build_engine(settings, dataset.image_shape, given)
    print(f"device: {machine.name}")
    shown = shown_of(settings | {"way": way}) | {
        "data_sha256": dataset.sha256,
        "precision": settings["precision"],
        "device": "GPU" if machine.gpu else "CPU",
        "jit": engine.learner.jit,
    }
    return engine, splits["test"], {"settings": shown, "provenance": devices.provenance(machine.name)}


def shown_of(settings: dict) -> dict:
    """The settings that tell what was tested."""
    import learners

    names = ("dataset", "split", "model", "perturbation", "way", "shot", "query", "seed")
    own = sorted(learners.settings_of(settings["model"], settings["perturbation"]))
    return {k: settings[k] for k in (*names, *own)}


def meta_test(savedir: Path, given: dict) -> int:
    config = read_trained(savedir)
    remedy = "it cannot be changed in a test"
    settings = merge(given, config, TEST_CHOICES | {"way"}, remedy)
    engine, split, described = build(settings, given, settings["way"])
    if not engine.learner.any_way:
        merge({"way": settings["way"]}, config, set(), remedy)
    import train

    return train.meta_test(
        engine,
        split,
        savedir,
        n_test_iters=settings["n_test_iters"],
        samples=settings["n_test_mc_samp"],
        checkpoint=settings["checkpoint"],
        **described,
    )


def build_single(savedir: Path, given: dict, what: str, way: int | None = None):
    """As `build`, for a mode that takes its tasks one by one, and the settings with it."""
    config = read_trained(savedir)
    settings = DEFAULTS | merge(given, config, TEST_CHOICES, f"it cannot be changed in {what}") | {"metabatch": 1}
    return settings, *build(settings, given, way or settings["way"])


def export(savedir: Path, given: dict) -> int:
    way = given.pop("way", 2)
    settings, engine, split, described = build_single(savedir, given, "an export", way)
    if way > settings["way"] and not engine.learner.any_way:
        raise UserError(f"--way {way} is more than the {settings['way']} classes the run was trained for: export fewer")
    import export as exporter

    return exporter.export(
        engine,
        split,
        savedir,
        way=way,
        tasks=settings["export_tasks"],
        copies=settings["export_samples"],
        images=settings["export_images"],
        channels=settings["export_channels"],
        samples=settings["n_test_mc_samp"],
        checkpoint=settings["checkpoint"],
        settings=described["settings"]
        | {"trained_way": settings["way"], "n_test_mc_samp": settings["n_test_mc_samp"]}
        | {"provenance": described["provenance"]},
    )


def collapse(savedir: Path, given: dict) -> int:
    settings, engine, split, described = build_single(savedir, given, "collapse")
    import study

    return study.over_tests(
        engine,
        split,
        savedir,
        tasks=settings["n_test_iters"],
        samples=settings["n_test_mc_samp"],
        checkpoint=settings["checkpoint"],
        **described,
    )


def compare(savedirs: list[Path]) -> int:
    if len(savedirs) < 2:
        raise UserError("--mode compare takes two or more folders: --savedir A B")
    return results.compare(savedirs)


MODES = {"meta_train": meta_train, "meta_test": meta_test, "export": export, "collapse": collapse, "compare": compare}


def read_flags(p: Parser, argv: list[str] | None = None) -> dict:
    """The flags of the command line; UserError where two contradict each other."""
    given = vars(p.parse_args(argv))
    if given.pop("maml", False) and given.setdefault("model", "maml") != "maml":
        raise UserError(f"--maml contradicts --model {given['model']}: give one of them")
    return given


def main() -> int:
    given = read_flags(parser())
    mode = given.pop("mode", DEFAULTS["mode"])
    refuse_unused(given, mode)
    savedirs = [Path(d) for d in given.pop("savedir", [])]
    if not savedirs:
        raise UserError("--savedir is missing: name the folder of the run, for example --savedir results/first")
    if mode == "compare":
        return compare(savedirs)
    if len(savedirs) > 1:
        raise UserError(f"--mode {mode} takes one --savedir, not {len(savedirs)}")
    return MODES[mode](savedirs[0], given)


if __name__ == "__main__":
    run(main)
