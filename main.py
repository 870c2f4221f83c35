"""Meta-train, test, measure, attack, compare and use few-shot learners: python main.py --mode MODE --savedir D [flags].

meta_train writes D/config.json; meta_test, export, collapse, attack and weights read it and need no other flag. compare
takes two or more folders as --savedir, classify --support and --query; draw needs none.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from pathlib import Path

import data
import files
from attacks import MADRY, METHODS, NORMS
from errors import Parser, UserError, run
from lazy import LazyModule
from learners import LEARNERS, make
from model import Learner
from ranges import UNIT
from settings import COMMAND, COMMON, Settings, all_settings, read_flags, refuse_unused
from settings import parser as settings_parser
from sources.table import MAKERS
from studies import collapse as collapse_study
from studies import export as export_study
from studies import robustness
from training import checkpoints, devices, loops, test_results
from training import weights as weights_file
from training.steps import Engine

# They import scikit-learn, which takes a second.
classify_study, draw_study = LazyModule("studies.classify"), LazyModule("studies.draw")
SHIPPED = [Path(__file__).parent / f"pretrained/omniglot_5way_1shot_{name}.npz" for name in ("maml", "metadrop")]


def parser() -> Parser:
    description, epilog, *_ = __doc__.split("\n\n")
    return settings_parser(MODES, description, epilog)


def load_data(settings: Settings, *used: str, bounded: str | None = None) -> tuple[data.Dataset, dict[str, data.Split]]:
    """The dataset, and its splits as these settings want them.

    used: names of the splits that have to be able to give such episodes. bounded: the flag or mode that needs to know
    the range of their pixels, if one does. UserError where a split cannot, or where the data are not those that the
    run knows.
    """
    dataset = data.load(settings.data_dir, settings.dataset, settings.split == "background", MAKERS)
    if settings.facts.get("data_sha256") not in (None, dataset.sha256):
        raise UserError(
            f"{settings.data_dir}/{dataset.name} holds other data than the run was trained on (other checksums): "
            f"give the folder of those as --data_dir"
        )
    began = "data_sha256" in settings.facts
    known = settings.facts.get("range", list(UNIT) if began and settings.adversarial else None)
    if known and dataset.range and known != list(dataset.range):
        raise UserError(
            f"the run was trained on inputs of the range {known}, and {settings.data_dir}/{dataset.name}/manifest.json "
            f"says {list(dataset.range)}: correct the manifest"
        )
    splits = data.splits_of(dataset, settings.train_split)
    for name in splits.keys() & set(used):
        way = settings.train_way if name == "train" else settings.way
        data.check_episode(splits[name], name, way, settings.shot, settings.query)
        if what := "--adversarial" if settings.adversarial and name == "train" else bounded:
            data.check_range(splits[name], name, what)
    return dataset, splits


def start(settings: Settings, distribute: bool = False) -> devices.Devices:
    """Set TensorFlow up, once a process."""
    return devices.set_up(settings.gpu_id, settings.metabatch, settings.precision, distribute)


def build_engine(settings: Settings, image_shape: tuple[int, int, int], machine: devices.Devices) -> Engine:
    """The engine of these settings. UserError where there is no such learner."""
    replicas = machine.strategy.num_replicas_in_sync
    if settings.metabatch % replicas:
        raise UserError(
            f"--metabatch {settings.metabatch} cannot be shared evenly by {replicas} devices: "
            f"choose a multiple of {replicas}"
        )
    try:
        learner = make(
            settings.model,
            settings.perturbation,
            image_shape=image_shape,
            channels=settings.channels or (64 if image_shape[-1] == 1 else 32),
            way=settings.way,
            bf16=settings.precision == devices.BF16,
            jit=machine.gpu if settings.jit == "auto" else settings.jit == "on",
            **settings.own,
        )
    except ValueError as fault:
        raise UserError(f"{fault}") from fault
    return Engine(
        learner,
        shot=settings.shot,
        query=settings.query,
        metabatch=settings.metabatch,
        seed=settings.seed,
        meta_lr=settings.meta_lr,
        clip_norm=settings.clip_norm,
        adversary=settings.adversary(),
        parallel=machine.parallel,
        strategy=machine.strategy,
    )


# ---- the modes


def settings_of_training(savedir: Path, given: dict, resume: bool) -> Settings:
    """The settings of a run that begins in savedir, or, with --resume, goes on there."""
    if not (savedir / "config.json").exists():
        return Settings.given(given)
    if not resume:
        raise UserError(f"{savedir} holds a run already: add --resume to go on with it, or choose another --savedir")
    return Settings.read(savedir).merged(given, "resume", "resume without it, or train in another --savedir")


def meta_train(savedir: Path, given: dict) -> int:
    # Every worker looks, and worker 0 writes into savedir only when all of them have come.
    resume = given.pop("resume", False)
    settings = settings_of_training(savedir, given, resume)
    dataset, splits = load_data(settings, "train", *["val"] * bool(settings.val_every))
    machine = start(settings, distribute=True)
    engine = build_engine(settings, dataset.image_shape, machine)
    refuse_idle_perturbation(engine.learner)
    print(f"device: {machine.name}")
    config = settings.config() | dataset.facts
    sessions = config.pop("sessions", [])

    def begin(first: int) -> None:
        """Write config.json; a session in which nothing is left to train is not one."""
        if machine.chief:
            more = first <= settings.n_train_iters
            trained_by = with_session(sessions, devices.provenance(machine.name)) if more else sessions
            content = json.dumps(config | {"sessions": trained_by}, indent=1) + "\n"
            files.write_atomically(savedir / "config.json", content)

    busy = f"is training in {savedir}: wait for it, or choose another --savedir"
    with files.locked(savedir / "meta_train.lock", busy) if machine.chief else contextlib.nullcontext():
        val = splits.get("val") if settings.val_every else None
        watch = None
        if machine.chief:
            settings_of_training(savedir, given, resume)  # again: another process may have begun here meanwhile
            if settings.collapse_every:
                watch = collapse_study.Watch(engine, splits["train"], savedir, settings.legacy_shared_classes)
            if val is None:
                print("no validation: training is not monitored, and there will be no best checkpoint")
            if settings.way > (tested := splits["test"].classes) and not engine.learner.any_way:
                print(f"note: this run cannot be tested: --way {settings.way} is more than the {tested} test classes")
        return loops.train(
            engine,
            splits["train"],
            val,
            savedir,
            n_train_iters=settings.n_train_iters,
            save_freq=settings.save_freq,
            val_every=settings.val_every,
            n_val_tasks=settings.n_val_tasks,
            val_samples=settings.n_test_mc_samp,
            settings=config,
            shared_classes=settings.legacy_shared_classes,
            alone=machine.alone,
            chief=machine.chief,
            begin=begin,
            watch=watch,
            watch_every=settings.collapse_every,
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


def build(settings: Settings, way: int, bounded: str | None = None) -> tuple[Engine, data.Split, dict, devices.Devices]:
    """For the modes that look at a trained run -> its engine, its test split, what tells and made the result, and
    what computes it.

    way: classes of a test's tasks. bounded: as in `load_data`.
    """
    tested = dataclasses.replace(settings, way=way)
    dataset, splits = load_data(tested, "test", bounded=bounded)
    machine = start(settings)
    engine = build_engine(settings, dataset.image_shape, machine)
    print(f"device: {machine.name}")
    identity = tested.identity() | {
        "data_sha256": dataset.sha256,
        "precision": settings.precision,
        "device": "GPU" if machine.gpu else "CPU",
        "jit": engine.learner.jit,
    }
    described = {"settings": identity, "provenance": devices.provenance(machine.name)}
    return engine, splits["test"], described, machine


def settings_of_test(savedir: Path, given: dict) -> Settings:
    trained = Settings.read(savedir).for_a_test()
    free = ["way"] if LEARNERS[trained.model].learner.any_way else []
    return trained.merged(given, "test", "it cannot be changed in a test", free)


def meta_test(savedir: Path, given: dict) -> int:
    settings = settings_of_test(savedir, given)
    engine, split, described, _ = build(settings, settings.way)
    return loops.test(
        engine,
        split,
        savedir,
        n_test_iters=settings.n_test_iters,
        samples=settings.n_test_mc_samp,
        checkpoint=settings.checkpoint,
        **described,
    )


def settings_of_one_by_one(savedir: Path, given: dict, what: str) -> Settings:
    """For a mode that takes its tasks one by one."""
    settings = Settings.read(savedir).for_a_test().merged(given, "test", f"it cannot be changed in {what}")
    return dataclasses.replace(settings, metabatch=1)


def export(savedir: Path, given: dict) -> int:
    way = given.pop("way", 2)
    settings = settings_of_one_by_one(savedir, given, "an export")
    engine, split, described, _ = build(settings, way, "--mode export")
    if way > settings.way and not engine.learner.any_way:
        raise UserError(f"--way {way} is more than the {settings.way} classes the run was trained for: export fewer")
    return export_study.export(
        engine,
        split,
        savedir,
        way=way,
        tasks=settings.export_tasks,
        copies=settings.export_samples,
        images=settings.export_images,
        channels=settings.export_channels,
        samples=settings.n_test_mc_samp,
        checkpoint=settings.checkpoint,
        settings=described["settings"]
        | {"trained_way": settings.way, "n_test_mc_samp": settings.n_test_mc_samp}
        | {"provenance": described["provenance"]},
    )


def collapse(savedir: Path, given: dict) -> int:
    settings = settings_of_one_by_one(savedir, given, "collapse")
    engine, split, described, _ = build(settings, settings.way)
    return collapse_study.over_tests(
        engine,
        split,
        savedir,
        tasks=settings.n_test_iters,
        samples=settings.n_test_mc_samp,
        checkpoint=settings.checkpoint,
        **described,
    )


def attack(savedir: Path, given: dict) -> int:
    settings = settings_of_test(savedir, given)
    refuse_idle_flags(settings, given)
    other = settings_of_surrogate(settings) if settings.surrogate else None
    engine, split, described, machine = build(settings, settings.way, "--mode attack")
    chosen = robustness.Attack(
        method=settings.attack_method,
        norm=settings.norm,
        eps=tuple(settings.eps or NORMS[settings.norm].budgets),
        steps=settings.attack_steps,
        step=settings.attack_step or MADRY / settings.attack_steps,
        start=settings.attack_start,
        restarts=settings.restarts,
        threat=settings.threat,
        loss=settings.attack_loss,
        square_share=settings.square_share if METHODS[settings.attack_method].squares else None,
    )
    surrogate = None
    if other:
        guide = build_engine(other, engine.learner.image_shape, machine)
        surrogate = robustness.Surrogate(guide, Path(settings.surrogate), other.identity(), settings.surrogate_draws)
    return robustness.over_tests(
        engine,
        split,
        savedir,
        attack=chosen,
        surrogate=surrogate,
        episodes=settings.n_test_iters,
        samples=settings.n_test_mc_samp,
        checkpoint=settings.checkpoint,
        **described,
    )


def refuse_idle_flags(settings: Settings, given: dict) -> None:
    """UserError where the kind of attack has no use for a flag, or cannot be."""
    method = METHODS[settings.attack_method]
    of_gradients = {"attack_step", "attack_start", "attack_loss", "surrogate"} & given.keys()
    if of_gradients and not method.gradients:
        raise UserError(
            f"--{min(of_gradients)} needs a gradient-based attack, and {settings.attack_method} is none: leave it out"
        )
    if "square_share" in given and not method.squares:
        raise UserError(f"--square_share needs --attack_method square, not {settings.attack_method}: leave it out")
    if settings.threat == "remaining" and not method.gradients:
        raise UserError(
            f"--threat remaining needs a gradient-based attack, and {settings.attack_method} is none: leave it out"
        )
    if settings.norm not in method.norms:
        raise UserError(f"--attack_method {settings.attack_method} is made for --norm {' or '.join(method.norms)}")
    if settings.attack_start == "clean" and settings.restarts > 1:
        raise UserError("--restarts that all begin at the clean image are one: leave --attack_start or --restarts out")
    if "surrogate_draws" in given and not settings.surrogate:
        raise UserError("--surrogate_draws is of a surrogate: give --surrogate, or leave it out")


def settings_of_surrogate(settings: Settings) -> Settings:
    """Those of the run whose gradients an attack follows. UserError where it cannot meet the same tasks."""
    shared = ("way", "shot", "query", "seed", "metabatch", "precision", "data_dir", "dataset", "split")
    other = settings_of_test(Path(settings.surrogate), {name: getattr(settings, name) for name in shared})
    if len({one.facts.get("data_sha256") for one in (settings, other)} - {None}) > 1:
        raise UserError(f"--surrogate {settings.surrogate} was trained on other data: choose another run")
    return other


def weights(savedir: Path, given: dict) -> int:
    slots, kind = given.pop("slots", False), given.pop("checkpoint", "last")
    settings = Settings.read(savedir).portable()
    devices.set_up("-1", 1, devices.FLOAT32, distribute=False)
    found = checkpoints.read_to_resume(savedir, kind)
    if slots and not found.state:
        raise UserError(f"{savedir} has no Adam slots, because it began with weights alone: leave --slots out")
    iteration, digest = found.about["iteration"], weights_file.digest(found.params)
    about = {
        "settings": settings,
        "checkpoint": kind,
        "iteration": iteration,
        "weights_sha256": digest,
        "test": test_results.latest_test(savedir, digest),
        "program": devices.revision(),
    }
    path = savedir / weights_file.NAME
    state = (found.slots, {name: found.state[name] for name in weights_file.STATE}, found.best) if slots else ()
    size = weights_file.write(path, weights_file.Weights(about, found.params, *state))
    print(f"{path}: iteration {iteration}{', with Adam' if slots else ''}, {size / 1e6:.1f} MB")
    return 0


def begin_with(file: Path, savedir: Path, mode: str, given: dict) -> contextlib.AbstractContextManager:
    """savedir as a run that begins with this file of weights; `given` is changed to what that means.

    A file with Adam's slots is a run that meta_train resumes. One without is the beginning of a new run: with the
    file's settings, but for the flags.
    """
    content, settings = weights_file.read(file), Settings.read(file).config()
    new = mode == "meta_train" and not content.state
    if new and not (savedir / "config.json").exists():
        known = all_settings()
        given |= {name: value for name, value in settings.items() if name in known} | given
    elif mode == "meta_train":
        given["resume"] = given.get("resume", bool(content.state))
    return weights_file.starting_in(savedir, file, None if new else content.about["settings"])


def classify(run: Path, given: dict) -> int:
    """run: a savedir, or a file of weights."""
    start(Settings(gpu_id=given.get("gpu_id"), metabatch=1))
    return classify_study.classify(
        run,
        given.get("support"),
        Path(str(given["query"])) if "query" in given else None,
        given.get("out", COMMAND["out"].default),
        given.get("skip_bad", COMMAND["skip_bad"].default),
        given.get("folds", COMMAND["folds"].default),
        statistics=given.get("query_statistics", COMMAND["query_statistics"].default),
        invert=given.get("invert", COMMAND["invert"].default),
        seed=given.get("seed", 0),
        checkpoint=given.get("checkpoint", "last"),
        **({"samples": given["n_test_mc_samp"]} if "n_test_mc_samp" in given else {}),
    )


def draw(runs: list[Path], given: dict) -> int:
    """runs: savedirs or files of weights."""
    start(Settings(gpu_id=given.get("gpu_id"), metabatch=1))
    data_dir = given.get("data_dir", COMMON["data_dir"].default)
    return draw_study.draw(runs, data_dir, given.get("port", COMMAND["port"].default), given.get("host", []))


def compare(savedirs: list[Path], attacks: bool) -> int:
    if len(savedirs) < 2:
        raise UserError("--mode compare takes two or more folders: --savedir A B")
    return test_results.compare(savedirs, attacks)


MODES = {
    "meta_train": meta_train, "meta_test": meta_test, "export": export, "collapse": collapse, "attack": attack,
    "classify": classify, "draw": draw, "compare": compare, "weights": weights,
}  # fmt: skip


def main() -> int:
    given = read_flags(parser())
    mode = given.pop("mode", COMMAND["mode"].default)
    refuse_unused(given, mode)
    savedirs, files = ([Path(name) for name in given.pop(flag, [])] for flag in ("savedir", "weights"))
    if mode in ("classify", "draw"):
        return with_runs(mode, savedirs + files, given)
    if not savedirs:
        raise UserError("--savedir is missing: name the folder of the run, for example --savedir results/first")
    if mode == "compare":
        return compare(savedirs, given.get("attack", False))
    if len(savedirs) > 1 or len(files) > 1:
        flag, count = ("savedir", len(savedirs)) if len(savedirs) > 1 else ("weights", len(files))
        raise UserError(f"--mode {mode} takes one --{flag}, not {count}")
    with begin_with(files[0], savedirs[0], mode, given) if files else contextlib.nullcontext():
        return MODES[mode](savedirs[0], given)


def with_runs(mode: str, runs: list[Path], given: dict) -> int:
    """For the modes that leave a run as it is. runs: savedirs and files of weights."""
    if mode == "draw":
        return draw(runs or SHIPPED, given)
    if not runs:
        raise UserError("--savedir is missing: name the folder of the run, or give a file of --weights")
    if len(runs) > 1:
        raise UserError(f"--savedir and --weights name {len(runs)} runs: --mode {mode} takes one of them")
    return classify(runs[0], given)


if __name__ == "__main__":
    run(main)
