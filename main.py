"""Meta-train, test, measure, attack, compare and use few-shot learners: python main.py --mode MODE --savedir D [flags].

meta_train writes D/config.json; meta_test, export, collapse, attack and weights read it and need no other flag. compare
takes two or more folders as --savedir, classify --support and --pictures; draw needs none.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import NamedTuple

import data
import files
from errors import UserError, run
from lazy import LazyModule
from learners import LEARNERS, make
from model import Learner
from ranges import UNIT
from settings import CommandLine, Settings, path_text, setting, to_path
from sources.table import MAKERS
from studies import collapse as collapse_study
from studies import export as export_study
from studies import robustness
from training import checkpoints, devices, loops, test_results
from training import config as run_config
from training import weights as weights_file
from training.config import Config, RunSettings, TrainingSettings
from training.steps import Engine

# They import scikit-learn, which takes a second.
classify_study, draw_study = LazyModule("studies.classify"), LazyModule("studies.draw")
SHIPPED = [Path(__file__).parent / f"pretrained/omniglot_5way_1shot_{name}.npz" for name in ("maml", "metadrop")]


def load_data(config: Config, *used: str, bounded: str | None = None) -> tuple[data.Dataset, dict[str, data.Split]]:
    """The dataset, and its splits as the run uses them.

    used: names of the splits that have to be able to give such episodes. bounded: the flag or mode that needs to know
    the range of their pixels, if one does. UserError where a split cannot, or where the data are not those that the
    run knows.
    """
    run = config.run
    dataset = data.load(run.data_dir, run.dataset, run.split == "background", MAKERS)
    if config.facts.get("data_sha256") not in (None, dataset.sha256):
        raise UserError(
            f"{run.data_dir}/{dataset.name} holds other data than the run was trained on (other checksums): "
            f"give the folder of those as --data_dir"
        )
    began = "data_sha256" in config.facts
    known = config.facts.get("range", list(UNIT) if began and config.training.adversarial else None)
    if known and dataset.range and known != list(dataset.range):
        raise UserError(
            f"the run was trained on inputs of the range {known}, and {run.data_dir}/{dataset.name}/manifest.json "
            f"says {list(dataset.range)}: correct the manifest"
        )
    splits = data.splits_of(dataset, run.train_split)
    for name in splits.keys() & set(used):
        way = config.train_way if name == "train" else run.way
        data.check_episode(splits[name], name, way, run.shot, run.query)
        if what := "--adversarial" if config.training.adversarial and name == "train" else bounded:
            data.check_range(splits[name], name, what)
    return dataset, splits


def start(run: RunSettings, distribute: bool = False) -> devices.Devices:
    """Set TensorFlow up, once per process."""
    return devices.set_up(run.gpu_id, run.metabatch, run.precision, distribute)


def make_learner(config: Config, image_shape: tuple[int, int, int], gpu: bool) -> Learner:
    """The learner of a run. UserError where there is no such learner."""
    run = config.run
    try:
        return make(
            run.model,
            run.perturbation,
            image_shape=image_shape,
            channels=run.channels or (64 if image_shape[-1] == 1 else 32),
            way=run.way,
            bf16=run.precision == devices.BF16,
            jit=gpu if run.jit == "auto" else run.jit == "on",
            **config.own(),
        )
    except ValueError as fault:
        raise UserError(f"{fault}") from fault


def build_engine(config: Config, image_shape: tuple[int, int, int], machine: devices.Devices) -> Engine:
    """The engine of a run. UserError where there is no such learner."""
    run, replicas = config.run, machine.strategy.num_replicas_in_sync
    if run.metabatch % replicas:
        raise UserError(
            f"--metabatch {run.metabatch} cannot be shared evenly by {replicas} devices: "
            f"choose a multiple of {replicas}"
        )
    learner = make_learner(config, image_shape, machine.gpu)
    if config.training.adversarial and not learner.has_query_loss:
        raise UserError(f"--adversarial needs a loss of query images, and {run.model} has none: leave it out")
    return Engine(
        learner,
        shot=run.shot,
        query=run.query,
        metabatch=run.metabatch,
        seed=run.seed,
        meta_lr=config.training.meta_lr,
        clip_norm=config.training.clip_norm,
        adversary=config.training.adversary,
        parallel=machine.parallel,
        strategy=machine.strategy,
    )


# ---- the modes: each takes the folder of its run, or several, and the flags by name


@dataclass(frozen=True)
class StartSettings(Settings):
    """start"""

    resume: bool = setting(False, "continue from D's last checkpoint")


def config_of_training(savedir: Path, flags: Mapping, resume: bool) -> Config:
    """The settings of a run that starts in savedir or, with --resume, continues there."""
    if not (savedir / "config.json").exists():
        return Config.of_flags(flags)
    if not resume:
        raise UserError(f"{savedir} holds a run already: add --resume to continue it, or choose another --savedir")
    return Config.read(savedir).merged(flags, ["resume"], "resume without it, or train in another --savedir")


def meta_train(savedir: Path, flags: dict) -> int:
    """train a learner, and write D/config.json"""
    # Every worker looks, and worker 0 writes into savedir only when all of them have come.
    resume = StartSettings.of(flags).resume
    config = config_of_training(savedir, flags, resume)
    run, training = config.run, config.training
    dataset, splits = load_data(config, "train", *["val"] * bool(training.val_every))
    machine = start(run, distribute=True)
    engine = build_engine(config, dataset.image_shape, machine)
    refuse_idle_perturbation(engine.learner)
    print(f"device: {machine.name}")
    entries = config.to_json() | dataset.facts
    sessions = entries.pop("sessions", [])

    def begin(first: int) -> None:
        """Write config.json; a session in which nothing is left to train is not one."""
        if machine.chief:
            more = first <= training.n_train_iters
            trained_by = with_session(sessions, devices.provenance(machine.name)) if more else sessions
            content = json.dumps(entries | {"sessions": trained_by}, indent=1) + "\n"
            files.write_atomically(savedir / "config.json", content)

    busy = f"is training in {savedir}: wait for it, or choose another --savedir"
    with files.locked(savedir / "meta_train.lock", busy) if machine.chief else contextlib.nullcontext():
        val = splits.get("val") if training.val_every else None
        watch = None
        if machine.chief:
            config_of_training(savedir, flags, resume)  # again: another process may have started here meanwhile
            if training.collapse_every:
                watch = collapse_study.Watch(engine, splits["train"], savedir, run.legacy_shared_classes)
            if val is None:
                print("no validation: training is not monitored, and there will be no best checkpoint")
            if run.way > (tested := splits["test"].classes) and not engine.learner.any_way:
                print(f"note: this run cannot be tested: --way {run.way} is more than the {tested} test classes")
        return loops.train(
            engine,
            splits["train"],
            val,
            savedir,
            training,
            val_samples=config.testing.n_test_mc_samp,
            config=entries,
            shared_classes=run.legacy_shared_classes,
            alone=machine.alone,
            chief=machine.chief,
            begin=begin,
            watch=watch,
        )


def refuse_idle_perturbation(learner: Learner) -> None:
    """Print which parameters are not trained. UserError where the perturbation has some and none of them is trained."""
    untrained = learner.untrained()
    own = learner.perturbation.parameters(learner.image_shape, learner.channels).keys()
    why = "since they act through the inner steps' gradients alone, which are constants here, or not taken"
    if own and own <= set(untrained):
        raise UserError(
            f"none of the perturbation's parameters would be trained ({', '.join(own)}), {why}: choose --meta_gradient "
            f"published or exact, and --n_steps of at least 1"
        )
    if untrained:
        print(f"not trained: {', '.join(untrained)}, {why} (--meta_gradient first_order, or --n_steps 0)")


def with_session(sessions: list[dict], session: dict) -> list[dict]:
    """The programs and devices that a run was trained with, in order; one that goes on alike is not a new one."""
    same = ("program", "tensorflow", "device")
    alike = sessions and all(sessions[-1].get(k) == session[k] for k in same)
    return sessions if alike else [*sessions, session]


def build(config: Config, way: int, bounded: str | None = None) -> tuple[Engine, data.Split, dict, devices.Devices]:
    """Build what the modes that study a trained run need -> its engine, its test split, what identifies and made the
    result, and the devices.

    way: classes of a test's tasks. bounded: as in `load_data`.
    """
    tested = dataclasses.replace(config, run=dataclasses.replace(config.run, way=way))
    dataset, splits = load_data(tested, "test", bounded=bounded)
    machine = start(config.run)
    engine = build_engine(config, dataset.image_shape, machine)
    print(f"device: {machine.name}")
    identity = tested.identity() | {
        "data_sha256": dataset.sha256,
        "precision": config.run.precision,
        "device": "GPU" if machine.gpu else "CPU",
        "jit": engine.learner.jit,
    }
    made = {"samples": config.testing.n_test_mc_samp, "provenance": devices.provenance(machine.name)}
    return engine, splits["test"], made | {"identity": identity}, machine


def config_of_test(savedir: Path, flags: Mapping) -> Config:
    """The settings of savedir's run in a test with these flags."""
    trained = Config.read(savedir).for_a_test()
    any_way = LEARNERS[trained.run.model].learner.any_way
    return trained.merged(flags, ["test", "at_any_way"] if any_way else ["test"], "it cannot be changed in a test")


def meta_test(savedir: Path, flags: dict) -> int:
    """test a run, and write D/meta_test.log and D/meta_test.json"""
    config, settings = config_of_test(savedir, flags), loops.MetaTestSettings.of(flags)
    engine, split, described, _ = build(config, config.run.way)
    return loops.test(engine, split, savedir, settings, **described)


def config_of_one_by_one(savedir: Path, flags: Mapping, what: str) -> Config:
    """`config_of_test` for a mode that takes its tasks one by one."""
    config = Config.read(savedir).for_a_test().merged(flags, ["test"], f"it cannot be changed in {what}")
    return dataclasses.replace(config, run=dataclasses.replace(config.run, metabatch=1))


def export(savedir: Path, flags: dict) -> int:
    """write the features, maps and noise of test tasks into D/export.npz, for plot.py"""
    settings = export_study.ExportSettings.of(flags)
    flags = {name: value for name, value in flags.items() if name != "way"}
    config = config_of_one_by_one(savedir, flags, "an export")
    engine, split, described, _ = build(config, settings.way, "--mode export")
    trained_way = config.run.way
    if settings.way > trained_way and not engine.learner.any_way:
        raise UserError(
            f"--way {settings.way} is more than the {trained_way} classes that the run was trained for: export fewer"
        )
    samples = described["samples"]
    more = {"trained_way": trained_way, "n_test_mc_samp": samples, "provenance": described["provenance"]}
    return export_study.export(
        engine, split, savedir, settings, samples=samples, described=described["identity"] | more
    )


def collapse(savedir: Path, flags: dict) -> int:
    """measure neural collapse over test tasks, and write D/collapse.json"""
    settings = loops.MetaTestSettings.of(flags)
    config = config_of_one_by_one(savedir, flags, "collapse")
    engine, split, described, _ = build(config, config.run.way)
    return collapse_study.over_tests(engine, split, savedir, settings, **described)


def attack(savedir: Path, flags: dict) -> int:
    """attack the query images of test tasks, and write D/attack.json"""
    config, settings = config_of_test(savedir, flags), robustness.AttackSettings.of(flags)
    settings.refuse_idle(flags)
    other = config_of_surrogate(config, settings.surrogate) if settings.surrogate else None
    engine, split, described, machine = build(config, config.run.way, "--mode attack")
    surrogate = None
    if other:
        surrogate_engine = build_engine(other, engine.learner.image_shape, machine)
        surrogate = robustness.Surrogate(
            surrogate_engine, Path(settings.surrogate), other.identity(), settings.surrogate_draws
        )
    return robustness.over_tests(engine, split, savedir, settings, surrogate, **described)


def config_of_surrogate(config: Config, surrogate: str) -> Config:
    """The settings of the run whose gradients an attack uses. UserError where it cannot be tested on the same tasks."""
    shared = ("way", "shot", "query", "seed", "metabatch", "precision", "data_dir", "dataset", "split")
    other = config_of_test(Path(surrogate), {name: getattr(config.run, name) for name in shared})
    if len({one.facts.get("data_sha256") for one in (config, other)} - {None}) > 1:
        raise UserError(f"--surrogate {surrogate} was trained on other data: choose another run")
    return other


def weights(savedir: Path, flags: dict) -> int:
    """write a checkpoint's weights into D/weights.npz, a file that travels"""
    settings = checkpoints.WeightsSettings.of(flags)
    config = Config.read(savedir).portable()
    devices.set_up("-1", 1, devices.FLOAT32, distribute=False)
    content = checkpoints.read_to_resume(savedir, settings.checkpoint)
    if settings.slots and not content.state:
        raise UserError(f"{savedir} has no Adam slots, because it started from weights alone: leave --slots out")
    iteration, digest = content.about["iteration"], weights_file.digest(content.params)
    about = {
        "settings": config,
        "checkpoint": settings.checkpoint,
        "iteration": iteration,
        "weights_sha256": digest,
        "test": test_results.latest_test(savedir, digest),
        "program": devices.revision(),
    }
    path = savedir / weights_file.NAME
    state = ()
    if settings.slots:
        state = content.slots, {name: content.state[name] for name in weights_file.STATE}, content.best
    size = weights_file.write(path, weights_file.Weights(about, content.params, *state))
    print(f"{path}: iteration {iteration}{', with Adam' if settings.slots else ''}, {size / 1e6:.1f} MB")
    return 0


def start_from(file: Path, savedir: Path, mode: str, flags: dict) -> contextlib.AbstractContextManager:
    """Make savedir a run that starts from this file of weights; `flags` are changed to what that means.

    A file with Adam's slots is a run that meta_train resumes. One without starts a new run: with the file's settings,
    unless a flag says otherwise.
    """
    content, config = weights_file.read(file), Config.read(file)
    new = mode == "meta_train" and not content.state
    if new and not (savedir / "config.json").exists():
        flags |= config.values() | flags
    elif mode == "meta_train":
        flags.setdefault("resume", bool(content.state))
    return weights_file.starting_in(savedir, file, None if new else content.about["settings"])


def classify(runs: list[Path], flags: dict) -> int:
    """classify your own pictures by labelled ones, with one run"""
    if not runs:
        raise UserError("--savedir is missing: name the folder of the run, or give a file of --weights")
    if len(runs) > 1:
        raise UserError(f"--savedir and --weights name {len(runs)} runs: --mode classify takes one of them")
    settings = classify_study.ClassifySettings.of(flags)
    start(RunSettings(gpu_id=settings.gpu_id, metabatch=1))
    return classify_study.classify(runs[0], settings)


def draw(runs: list[Path], flags: dict) -> int:
    """serve a page to draw on, where runs classify what you draw"""
    settings = draw_study.DrawSettings.of(flags)
    start(RunSettings(gpu_id=settings.gpu_id, metabatch=1))
    return draw_study.draw(runs or SHIPPED, settings)


def compare(runs: list[Path], flags: dict) -> int:
    """print the accuracies of tested runs and their paired differences"""
    if len(runs) < 2:
        raise UserError("--mode compare takes two or more folders: --savedir A B")
    return test_results.compare(runs, test_results.CompareSettings.of(flags).results == "attack")


class Mode(NamedTuple):
    """A mode of main.py. settings: returns the class of its own settings, which is imported then. learner: it makes
    the learner of one run, and so takes flags of a run, but those that it works `without`. training: the settings of
    a mode that trains."""

    call: Callable[..., int]
    settings: Callable[[], type[Settings]]
    learner: bool = True
    training: type[Settings] | None = None
    without: tuple[str, ...] = ()


MODES = {
    "meta_train": Mode(meta_train, lambda: StartSettings, training=TrainingSettings),
    "meta_test": Mode(meta_test, lambda: loops.MetaTestSettings),
    "export": Mode(export, lambda: export_study.ExportSettings, without=("way", "metabatch")),
    "collapse": Mode(collapse, lambda: loops.MetaTestSettings, without=("metabatch",)),
    "attack": Mode(attack, lambda: robustness.AttackSettings),
    "classify": Mode(classify, lambda: classify_study.ClassifySettings, learner=False),
    "draw": Mode(draw, lambda: draw_study.DrawSettings, learner=False),
    "compare": Mode(compare, lambda: test_results.CompareSettings, learner=False, without=("weights",)),
    "weights": Mode(weights, lambda: checkpoints.WeightsSettings, learner=False, without=("weights",)),
}


# ---- the command line


@dataclass(frozen=True)
class CommandSettings(Settings):
    """mode and run"""

    mode: str = setting("meta_train", "what to do", choices=MODES)
    savedir: tuple[str, ...] | None = setting(
        None, "folder of the run (compare: two or more; draw: one or more)", path_text, nargs="+", metavar="D"
    )
    weights: tuple[Path, ...] | None = setting(
        None,
        "file of weights that D starts from, to test, export or train on from them (written with --slots: to the same "
        "bits); classify and draw take it in place of --savedir",
        to_path,
        metavar="FILE",
        nargs="+",
    )


CHOICE = ("model", "perturbation")


def read_command(argv: list[str] | None = None) -> dict:
    """Read the command line -> its flags, by name, the mode among them. It ends with one sentence and exit code 2 at a
    flag that the mode, the learner or the perturbation does not have."""
    first = first_flags(argv)
    mode = first.get("mode", CommandSettings.mode)
    chosen = choice(mode, first) if MODES[mode].learner else {}
    return {"mode": mode} | command_line(mode, chosen).read(argv)


def first_flags(argv: list[str] | None) -> dict:
    """The flags that decide which others there are, by name; `help` is among them."""
    line = CommandLine("main.py", "main.py", add_help=False)
    line.add("", [*fields(CommandSettings), *(one for one in fields(RunSettings) if one.name in CHOICE)])
    line.add_argument("-h", "--help", action="store_true")
    return line.read(argv, all_known=False)


def choice(mode: str, flags: Mapping) -> dict:
    """The learner and the perturbation that the flags or the run choose. Empty if they choose none: --help then shows
    the flags of all, and so does a mode that finds no run, which is refused later."""
    savedir, file = (Path(flags[name][0]) if name in flags else None for name in ("savedir", "weights"))
    of_run = {}
    if savedir and (savedir / "config.json").exists():
        of_run = chosen_by(Config.read(savedir).run)
    elif file and file.is_file() and weights_file.read(file):
        of_run = chosen_by(Config.read(file).run)
    if flags.get("model", of_run.get("model")) != of_run.get("model"):
        of_run = {}
    chosen = of_run | {name: flags[name] for name in CHOICE if name in flags}
    if "model" in chosen or "help" in flags or mode != "meta_train":
        return chosen if "model" in chosen else {}
    return {"model": RunSettings.model} | chosen


def chosen_by(run: RunSettings) -> dict:
    return {name: getattr(run, name) for name in CHOICE}


def command_line(mode: str, chosen: Mapping[str, str]) -> CommandLine:
    """The flags of a mode. chosen: as in `training.config.add_flags`."""
    entry, (description, epilog) = MODES[mode], __doc__.split("\n\n")
    usage = "main.py [--mode MODE] --savedir D [flags]"
    line = CommandLine(place_of(f"--mode {mode}", chosen), "main.py", description, epilog, usage=usage)
    line.add(CommandSettings.__doc__, [one for one in fields(CommandSettings) if one.name not in entry.without])
    own = entry.settings()
    line.add(f"{mode}: {entry.call.__doc__}", fields(own))
    if entry.learner:
        run_config.add_flags(line, chosen, entry.training, entry.without, of_run=not entry.training)
    return line


def place_of(command: str, chosen: Mapping[str, str]) -> str:
    """Name the command, and the learner and the perturbation that are chosen, for a sentence."""
    flags = " ".join(f"--{name} {value}" for name, value in chosen.items() if value)
    return f"{command} with {flags}" if flags else command


def main() -> int:
    flags = read_command()
    mode = flags.pop("mode")
    savedirs, files = ([Path(name) for name in flags.pop(flag, [])] for flag in ("savedir", "weights"))
    call = MODES[mode].call
    if mode in ("classify", "draw", "compare"):
        return call(savedirs + files, flags)
    if not savedirs:
        raise UserError("--savedir is missing: name the folder of the run, for example --savedir results/first")
    for flag, runs in (("savedir", savedirs), ("weights", files)):
        if len(runs) > 1:
            raise UserError(f"--mode {mode} takes one --{flag}, not {len(runs)}")
    with start_from(files[0], savedirs[0], mode, flags) if files else contextlib.nullcontext():
        return call(savedirs[0], flags)


if __name__ == "__main__":
    run(main)
