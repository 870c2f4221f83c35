"""Meta-train, test, measure, attack, compare and use few-shot learners: python main.py --mode MODE --savedir D [flags].

meta_train writes D/config.json; meta_test, export, collapse, attack and weights read it and need no other flag. compare
takes two or more folders as --savedir, classify --support and --query; draw needs none.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import NamedTuple

import data
import files
from errors import UserError, run, user_error
from lazy import LazyModule
from learners import LEARNERS
from model import Learner
from ranges import UNIT
from settings import CommandLine, Settings, path_text, setting, to_path
from sources.table import MAKERS
from studies import across, robustness
from studies import collapse as collapse_study
from studies import export as export_study
from training import checkpoints, devices, loops, test_results
from training import config as run_config
from training import weights as weights_file
from training.config import Config, RunSettings, TrainingSettings
from training.steps import Engine

# Classifying imports scikit-learn, and drawing a web server: modes that need neither start sooner.
classify_study, draw_study = LazyModule("studies.classify"), LazyModule("studies.draw")
SHIPPED = [Path(__file__).parent / f"pretrained/omniglot_5way_1shot_{name}.npz" for name in ("maml", "metadrop")]


def load_data(config: Config, *used: str, bounded: str | None = None) -> tuple[data.Dataset, dict[str, data.Split]]:
    """Return the run's dataset, and its splits.

    used: names of the splits that episodes are drawn from. bounded: the flag or mode that needs the range of their
    pixels, if one does. Raise UserError if a split is too small for the run's episodes, has no such range, or is not
    the data that the run was trained on.
    """
    run = config.run
    began = "data_sha256" in config.facts
    elsewhere = ", or, for the same data in another folder, give that as --data_dir" * began
    with more_to_do(elsewhere):
        dataset = data.load(run.data_dir, run.dataset, run.split == "background", MAKERS, checksums=True)
    if config.facts.get("data_sha256") not in (None, dataset.sha256):
        raise UserError(
            f"{run.data_dir}/{dataset.name} holds other data than the run was trained on (other checksums): "
            f"give the folder of the run's data as --data_dir"
        )
    known = config.facts.get("range", list(UNIT) if began and config.training.adversarial else None)
    if known and dataset.range and known != list(dataset.range):
        raise UserError(
            f"the run was trained on inputs of the range {known}, and {run.data_dir}/{dataset.name}/manifest.json "
            f"says {list(dataset.range)}: correct the manifest"
        )
    splits = data.splits_of(dataset, run.train_split)
    for name in splits.keys() & set(used):
        own = name == "train" and config.train_way != run.way
        way, flag = (config.train_way, "train_way") if own else (run.way, "way")
        with more_to_do(", and train a run for that" * (began and name == "test")):
            data.check_episode(splits[name], name, way, run.shot, run.query, flag)
        if what := "--adversarial" if config.training.adversarial and name == "train" else bounded:
            data.check_range(splits[name], name, what)
    return dataset, splits


@contextlib.contextmanager
def more_to_do(remedy: str):
    """In a `with` block add this to the message of a UserError."""
    try:
        yield
    except UserError as fault:
        raise UserError(f"{fault}{remedy}") from fault


def start(run: RunSettings, distribute: bool = False) -> devices.Devices:
    """Set TensorFlow up for a mode."""
    return devices.set_up(run.gpu_id, run.metabatch, run.precision, distribute)


def build_engine(config: Config, image_shape: tuple[int, int, int], machine: devices.Devices) -> Engine:
    """Make a run's engine. Raise UserError if there is no such learner, or if the devices cannot share the
    metabatch."""
    run, replicas = config.run, machine.strategy.num_replicas_in_sync
    if run.metabatch % replicas:
        raise UserError(
            f"--metabatch {run.metabatch} cannot be shared evenly by {replicas} devices: "
            f"choose a multiple of {replicas}, or one device with --gpu_id"
        )
    learner = config.make_learner(image_shape, jit=machine.gpu if run.jit == "auto" else run.jit == "on")
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


# ---- the modes: each takes the folder of its run, or a list of runs, and the flags by name


@dataclass(frozen=True)
class StartSettings(Settings):
    """How a session starts."""

    resume: bool = setting(False, "continue from D's last checkpoint")


def config_of_training(savedir: Path, flags: Mapping, resume: bool) -> Config:
    """Return the settings of a run that starts in savedir or, with --resume, continues there."""
    if not (savedir / "config.json").exists():
        refuse_remains(savedir, "weights" in flags)
        return Config.of_flags(flags)
    if not resume:
        raise UserError(f"{savedir} holds a run already: add --resume to continue it, or choose another --savedir")
    return Config.read(savedir).merged(flags, ["resume"], "resume without it, or train in another --savedir")


def refuse_remains(savedir: Path, from_weights: bool) -> None:
    """Raise UserError if a folder without config.json has files of a run. from_weights: the new run starts from the
    copy of a weights file there."""
    remains = ["checkpoints", *(f"meta_train.{ending}" for ending in ("log", "csv")), weights_file.START]
    for name in remains[: -1 if from_weights else None]:
        if (savedir / name).exists():
            raise UserError(
                f"{savedir} has {name} and no config.json, so it is no run that could be continued: choose another "
                f"--savedir, or remove the remains"
            )
    if from_weights and not (savedir / weights_file.START).exists():
        raise UserError(
            f"there is no {savedir / weights_file.START}: another command has removed it, so give this command again; "
            f'from Python call it in `with main.start_from(FILE, savedir, "meta_train", flags):`'
        )


def meta_train(savedir: Path, flags: dict) -> int:
    """Train a learner, and write D/config.json, checkpoints and logs."""
    refuse_unknown("meta_train", flags)
    # Every worker reads savedir; worker 0 writes into it after all of them have started.
    resume = StartSettings.of(flags).resume
    config = config_of_training(savedir, flags, resume)
    run, training = config.run, config.training
    dataset, splits = load_data(config, "train", *["val"] * bool(training.val_every))
    if training.collapse_every:  # measured on tasks of the tests' size
        data.check_episode(splits["train"], "train", run.way, run.shot, run.query)
    machine = start(run, distribute=True)
    config = config.with_facts(**dataset.facts, train_classes=splits["train"].classes)
    engine = build_engine(config, dataset.image_shape, machine)
    refuse_idle_perturbation(engine.learner)
    if run.legacy_shared_classes and engine.learner.minibatch:
        raise UserError(f"--legacy_shared_classes needs episodes, and {run.model} trains on minibatches: leave it out")
    if training.collapse_every:
        collapse_study.refuse_uninspectable(engine)
    print(f"device: {machine.name}")
    entries = config.to_json()
    sessions = entries.pop("sessions", [])

    def begin(first: int) -> None:
        """Write config.json. It lists a session only if there is something left to train."""
        if machine.chief:
            more = first <= training.n_train_iters
            trained_by = with_session(sessions, devices.provenance(machine.name)) if more else sessions
            content = json.dumps(entries | {"sessions": trained_by}, indent=1) + "\n"
            files.write_atomically(savedir / "config.json", content)

    busy = f"is training in {savedir}: wait for it, or choose another --savedir"
    with files.locked(savedir / weights_file.LOCK, busy) if machine.chief else contextlib.nullcontext():
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
    """Print the untrained parameters. Raise UserError if the perturbation has parameters and none is trained."""
    untrained = learner.untrained()
    own = learner.perturbation.parameters(learner.image_shape, learner.channels).keys()
    why = "since they only act through gradients in inner steps, which are constants here, or not computed"
    if own and own <= set(untrained):
        raise UserError(
            f"none of the perturbation's parameters would be trained ({', '.join(own)}), {why}: choose --meta_gradient "
            f"published or exact, and --n_steps of at least 1"
        )
    if untrained:
        print(f"not trained: {', '.join(untrained)}, {why} (--meta_gradient first_order, or --n_steps 0)")


def with_session(sessions: list[dict], session: dict) -> list[dict]:
    """Return a run's sessions; add the new one if its program, TensorFlow or device differs from the last one's."""
    same = ("program", "tensorflow", "device")
    alike = sessions and all(sessions[-1].get(k) == session[k] for k in same)
    return sessions if alike else [*sessions, session]


def build(config: Config, way: int, bounded: str | None = None) -> tuple[Engine, data.Split, dict, devices.Devices]:
    """Prepare a study of a trained run. Return its engine, its test split, the study's arguments (noise samples,
    identity and provenance of the result), and the devices.

    way: classes of a test's tasks. bounded: as in `load_data`.
    """
    tested = config.with_run(way=way)
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


def config_of_test(savedir: Path, flags: Mapping, mode: str = "a test", one_by_one: bool = False) -> Config:
    """Return the settings of savedir's run in a test with these flags. mode: for messages. one_by_one: True if tasks
    are computed one by one, with the run's --way."""
    trained = Config.read(savedir).for_a_test()
    tested = trained.merged(flags, test_places(trained.run.model, one_by_one), f"it cannot be changed in {mode}")
    tested.refuse_idle(flags)
    return tested.with_run(metabatch=1) if one_by_one else tested


def test_places(model: str | None, one_by_one: bool) -> list[str]:
    """Return the places (settings.setting) of a test of this learner, or of any learner. one_by_one: as in
    `config_of_test`."""
    any_way = not one_by_one and (model is None or LEARNERS[model].learner.any_way)
    return ["test", "at_any_way"] if any_way else ["test"]


@dataclass(frozen=True)
class TestSettings(loops.MetaTestSettings):
    """The size of a test, and its data."""

    across: bool = setting(
        False, "test on the test classes of another dataset, --dataset NAME, whose images have the shape of the run's"
    )


def meta_test(savedir: Path, flags: dict) -> int:
    """Test a run, and write D/meta_test.log and D/meta_test.json."""
    refuse_unknown("meta_test", flags)
    settings, trained = TestSettings.of(flags), Config.read(savedir)
    other = flags.get("dataset", trained.run.dataset) != trained.run.dataset
    if settings.across and not other:
        raise UserError(
            f"--across tests a run on another dataset than {trained.run.dataset}, which it was trained on: give its "
            f"name as --dataset, or leave --across out"
        )
    if settings.across:
        config = config_across(savedir, flags)
    else:
        config = config_of_test(savedir, flags, "a test without --across" if other else "a test")
    engine, split, described, _ = build(config, config.run.way)
    if settings.across:
        described["identity"] |= {
            "trained_on": trained.run.dataset, "trained_data_sha256": trained.facts.get("data_sha256")
        }  # fmt: skip
    return loops.test(engine, split, savedir, settings, **described)


def config_across(savedir: Path, flags: Mapping) -> Config:
    """Return the settings of savedir's run in a test on the other dataset that the flags name. Raise UserError if that
    does not suit the run."""
    changes = {name: flags.get(name, getattr(RunSettings, name)) for name in ("dataset", "split")}
    trained = config_of_test(savedir, {name: flags[name] for name in flags.keys() - changes})
    kept = {name: value for name, value in trained.facts.items() if name == "train_classes"}  # a shape of the weights
    tested = replace(trained.with_run(**changes, train_split=RunSettings.train_split), facts=kept)
    across.check(Config.read(savedir), tested)
    return tested


def export(savedir: Path, flags: dict) -> int:
    """Write the features, maps and noise of test tasks into D/export.npz, for plot.py."""
    refuse_unknown("export", flags)
    settings = export_study.ExportSettings.of(flags)
    flags = {name: value for name, value in flags.items() if name != "way"}
    config = config_of_test(savedir, flags, "an export", one_by_one=True)
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
    """Measure neural collapse over test tasks, and write D/collapse.json."""
    refuse_unknown("collapse", flags)
    settings = loops.MetaTestSettings.of(flags)
    config = config_of_test(savedir, flags, "collapse", one_by_one=True)
    engine, split, described, _ = build(config, config.run.way)
    return collapse_study.over_tests(engine, split, savedir, settings, **described)


def attack(savedir: Path, flags: dict) -> int:
    """Attack the query images of test tasks, and write D/attack.json."""
    refuse_unknown("attack", flags)
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
    """Return the settings of an attack's surrogate run. Raise UserError if it cannot be tested on the same tasks."""
    shared = ("way", "shot", "query", "seed", "metabatch", "precision", "jit", "data_dir", "dataset", "split")
    with user_error(f"--surrogate {surrogate} cannot be used for these tasks", "choose another run", UserError):
        other = config_of_test(Path(surrogate), {name: getattr(config.run, name) for name in shared})
    if len({one.facts.get("data_sha256") for one in (config, other)} - {None}) > 1:
        raise UserError(f"--surrogate {surrogate} was trained on other data: choose another run")
    return other


def weights(savedir: Path, flags: dict) -> int:
    """Write a checkpoint's weights into D/weights.npz."""
    refuse_unknown("weights", flags)
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
    """Start a run in savedir from a weights file, in a `with` block. This changes `flags`.

    A file with Adam's slots is resumed by meta_train. A file without them starts a new run, with the file's settings
    where no flag overrides them. meta_train finds the file in flags["weights"].
    """
    content, config = weights_file.read(file), Config.read(file)
    new = mode == "meta_train" and not content.state
    if new and not (savedir / "config.json").exists():
        flags |= config.values() | flags
    elif mode == "meta_train":
        flags.setdefault("resume", bool(content.state))
    if mode == "meta_train":
        flags["weights"] = file
    return weights_file.starting_in(savedir, file, None if new else content.about["settings"])


def classify(runs: list[Path], flags: dict) -> int:
    """Classify pictures by labelled ones, with one run, or with a backbone."""
    refuse_unknown("classify", flags)
    settings = classify_study.ClassifySettings.of(flags)
    if not runs and not settings.backbone:
        raise UserError("--savedir is missing: name the folder of the run, or give a file of --weights or a --backbone")
    if len(runs) > 1:
        raise UserError(f"--savedir and --weights name {len(runs)} runs: --mode classify takes one of them")
    start(RunSettings(gpu_id=settings.gpu_id, metabatch=1))
    return classify_study.classify(runs[0] if runs else None, settings)


def draw(runs: list[Path], flags: dict) -> int:
    """Serve a page to draw on, where runs classify the drawings."""
    refuse_unknown("draw", flags)
    settings = draw_study.DrawSettings.of(flags)
    start(RunSettings(gpu_id=settings.gpu_id, metabatch=1))
    return draw_study.draw(runs or SHIPPED, settings)


def compare(runs: list[Path], flags: dict) -> int:
    """Print the accuracies of tested or attacked runs, and their paired differences."""
    refuse_unknown("compare", flags)
    if len(runs) < 2:
        raise UserError("--mode compare takes two or more folders: --savedir A B")
    return test_results.compare(runs, test_results.CompareSettings.of(flags).results == "attack")


class Mode(NamedTuple):
    """A mode of main.py. settings: a function that returns the mode's Settings class, and may import it. learner: True
    if it makes the learner of one run; it then takes the flags of runs. training: the settings of a mode that trains.
    without: flags that this mode does not have."""

    call: Callable[..., int]
    settings: Callable[[], type[Settings]]
    learner: bool = True
    training: type[Settings] | None = None
    without: tuple[str, ...] = ()


MODES = {
    "meta_train": Mode(meta_train, lambda: StartSettings, training=TrainingSettings),
    "meta_test": Mode(meta_test, lambda: TestSettings),
    "export": Mode(export, lambda: export_study.ExportSettings, without=("way", "metabatch")),
    "collapse": Mode(collapse, lambda: loops.MetaTestSettings, without=("metabatch",)),
    "attack": Mode(attack, lambda: robustness.AttackSettings),
    "classify": Mode(classify, lambda: classify_study.ClassifySettings, learner=False),
    "draw": Mode(draw, lambda: draw_study.DrawSettings, learner=False),
    "compare": Mode(compare, lambda: test_results.CompareSettings, learner=False, without=("weights",)),
    "weights": Mode(weights, lambda: checkpoints.WeightsSettings, learner=False, without=("weights",)),
}


def refuse_unknown(mode: str, flags: Mapping) -> None:
    """Raise UserError for a flag that a mode does not know. The command line has refused it before; Python has not."""
    entry = MODES[mode]
    known = {one.name for one in fields(entry.settings())} | (run_config.all_names() if entry.learner else set())
    known |= {"weights"} if entry.training else set()  # start_from sets it
    if unknown := sorted(flags.keys() - known):
        remedy = f"see python main.py --mode {mode} --help"
        if unknown[0] == "weights" and entry.learner:
            remedy = f'call it in `with main.start_from(FILE, savedir, "{mode}", flags):`, as the command line does'
        raise UserError(f"--mode {mode} has no flag {unknown[0]}: {remedy}")


# ---- the command line


@dataclass(frozen=True)
class CommandSettings(Settings):
    """The mode and the run."""

    mode: str = setting("meta_train", "what to do", choices=MODES)
    savedir: tuple[str, ...] | None = setting(
        None, "folder of the run (compare: two or more; draw: one or more)", path_text, nargs="+", metavar="D"
    )
    weights: tuple[Path, ...] | None = setting(
        None,
        "weights file to start D from, in order to test it, export it or continue its training (to the same bits, if "
        "the file was written with --slots); for classify and draw, in place of --savedir",
        to_path,
        metavar="FILE",
        nargs="+",
    )


def read_command(argv: list[str] | None = None) -> dict:
    """Return the flags of the command line by name, and the mode. Exit with one sentence and code 2 at a flag that does
    not belong to the mode, the learner or the perturbation."""
    first = first_flags(argv)
    mode = first.get("mode", CommandSettings.mode)
    chosen = chosen_learner(first, mode == "meta_train") if MODES[mode].learner else {}
    return {"mode": mode} | command_line(mode, chosen).read(argv)


def first_flags(argv: list[str] | None) -> dict:
    """Return the flags, by name, that decide which other flags there are; `help` is one of them."""
    line = CommandLine("main.py", "main.py", add_help=False)
    line.add("", [*fields(CommandSettings), *(one for one in fields(RunSettings) if one.name in LEARNER)])
    line.add_argument("-h", "--help", action="store_true")
    return line.read(argv, all_known=False)


LEARNER = ("model", "perturbation")


def chosen_learner(flags: Mapping, has_default: bool) -> dict:
    """Return the `model` and the `perturbation` that the flags or the run choose, or the defaults. Return nothing for
    --help without a run, and for a mode without a default: all learners' flags are then added."""
    savedir, file = (Path(flags[name][0]) if name in flags else None for name in ("savedir", "weights"))
    of_run = {}
    with contextlib.suppress(*[UserError] * ("help" in flags)):  # --help is shown whatever the run is
        if savedir and (savedir / "config.json").exists():
            of_run = Config.read(savedir).values()
        elif file and file.is_file() and weights_file.read(file):
            of_run = Config.read(file).values()
    if flags.get("model", of_run.get("model")) != of_run.get("model"):
        of_run = {}
    chosen = {name: values[name] for values in (of_run, flags) for name in LEARNER if name in values}
    if "model" not in chosen and has_default and "help" not in flags:
        chosen["model"] = RunSettings.model
    return chosen if "model" in chosen else {}


def command_line(mode: str, chosen: Mapping[str, str]) -> CommandLine:
    """Return the command line of a mode. chosen: as in `training.config.add_flags`."""
    entry, (description, epilog) = MODES[mode], (__doc__ or "\n\n").split("\n\n")
    usage = "main.py [--mode MODE] --savedir D [flags]"
    line = CommandLine(place_of(mode, chosen), "main.py", description, epilog, usage=usage)
    line.add(CommandSettings.__doc__ or "", [one for one in fields(CommandSettings) if one.name not in entry.without])
    line.add(f"--mode {mode}: {entry.call.__doc__}", fields(entry.settings()))
    if entry.learner:
        places = [] if entry.training else test_places(chosen.get("model"), "metabatch" in entry.without)
        run_config.add_flags(line, chosen, entry.training, entry.without, of_run=places)
    return line


def place_of(mode: str, chosen: Mapping[str, str]) -> str:
    """Name the mode and the chosen learner and perturbation, for a message."""
    flags = " ".join(f"--{name} {value}" for name, value in chosen.items() if value)
    return f"--mode {mode}" + f" with {flags}" * bool(flags)


def main() -> int:
    flags = read_command()
    mode = flags.pop("mode")
    savedirs, files = ([Path(name) for name in flags.pop(flag, [])] for flag in ("savedir", "weights"))
    call = MODES[mode].call
    if mode in ("classify", "draw", "compare"):
        return call(savedirs + files, flags)
    if not savedirs:
        raise UserError("--savedir is missing: name the folder of the run, for example --savedir results/first")
    if savedirs[0].is_file():
        raise UserError(f"--savedir {savedirs[0]} is a file: name a folder, and give a file of weights as --weights")
    for flag, runs in (("savedir", savedirs), ("weights", files)):
        if len(runs) > 1:
            raise UserError(f"--mode {mode} takes one --{flag}, not {len(runs)}")
    with start_from(files[0], savedirs[0], mode, flags) if files else contextlib.nullcontext():
        return call(savedirs[0], flags)


if __name__ == "__main__":
    run(main)
