"""List the runs and attacks of the study runfiles/robustness.sh, and print the tables of their results.

python runfiles/robustness.py [RESULTS]
python runfiles/robustness.py [RESULTS] --runs [-- FLAGS]       the runs and their curves, for train_all.py
python runfiles/robustness.py [RESULTS] --probes [-- FLAGS]     then further attacks on them, for train_all.py

The runs of the regularisers' study, if there are any in the folder `regularisers` beside RESULTS, are included.
"""

import itertools
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import regularisers
from regularisers import TEST
from tables import EPISODES, ROOT, SAMPLES, TRAINING, over_seeds, refuse_mixed, split_command

from attacks import MADRY, METHODS, NORMS, SQUARE, THREATS
from errors import Parser, UserError, run
from studies.robustness import CLEAN
from training.test_results import attack_time, mean_and_interval, read_attack

TRAIN = "--dataset omniglot --way 5 --query 15 --metabatch 4 --val_every 200 --n_val_tasks 200 --save_freq 100"
ATTACK = "--query 3 --n_test_iters 100 --n_test_mc_samp 10"
SHOTS = {1: "--shot 1 --n_train_iters 800", 5: "--shot 5 --n_train_iters 400"}
SEEDS = (0, 1, 2)


class Kind(NamedTuple):
    """A row of the table. All runs are attacked in linf; norms: further ones, for seed 0 alone."""

    title: str
    flags: str
    shot: int = 1
    norms: tuple[str, ...] = ()


OTHERS = tuple(norm for norm in NORMS if norm != "linf")
KINDS = {
    "maml": Kind("MAML", "--model maml", norms=OTHERS),
    "metadrop": Kind("Meta-dropout", "--model metadrop", norms=OTHERS),
    "maml_exact": Kind("MAML, exact gradient", "--model maml --meta_gradient exact"),
    "metadrop_exact": Kind("Meta-dropout, exact gradient", "--model metadrop --meta_gradient exact"),
    "linf_0.02": Kind("MAML, trained on linf 0.02", "--model maml --adversarial linf:0.02", norms=OTHERS),
    "linf_0.1": Kind("MAML, trained on linf 0.1", "--model maml --adversarial linf:0.1", norms=OTHERS),
    "l2_1": Kind("MAML, trained on l2 1", "--model maml --adversarial l2:1", norms=OTHERS),
    "l2_5": Kind("MAML, trained on l2 5", "--model maml --adversarial l2:5", norms=OTHERS),
    "maml_5shot": Kind("MAML, 5-shot", "--model maml", 5),
    "metadrop_5shot": Kind("Meta-dropout, 5-shot", "--model metadrop", 5),
    "linf_0.02_5shot": Kind("MAML, trained on linf 0.02, 5-shot", "--model maml --adversarial linf:0.02", 5),
    "linf_0.1_5shot": Kind("MAML, trained on linf 0.1, 5-shot", "--model maml --adversarial linf:0.1", 5),
}
# The kinds that all attacks are tried on, with all seeds, and for each the other learner.
OTHER = {"maml": "metadrop", "metadrop": "maml", "maml_exact": "metadrop_exact", "metadrop_exact": "maml_exact"}
# The runs of the regularisers' study join if they have been tested, which of several strengths only the chosen one is:
# name of the runs -> kind and strength.
REGULARISERS = {
    regularisers.key(kind, value): (kind, value)
    for kind, about in regularisers.KINDS.items()
    if kind not in KINDS
    for value in about.values or ("",)
}
# The kinds that robustness.sh attacks with the weights of pretrained/.
SHIPPED = {"maml_20way": "MAML, 20-way", "metadrop_20way": "Meta-dropout, 20-way"}
TITLES = {name: kind.title for name, kind in KINDS.items()} | SHIPPED
TITLES |= {name: regularisers.title_of(*chosen) for name, chosen in REGULARISERS.items()}
TASKS = ("_20way", "_5shot", "")  # ends of the names of kinds, which tell their tasks


class Probe(NamedTuple):
    """An attack that tests whether the robustness is real. surrogate: the model that it takes its gradients from, which
    is the `other` learner, or the run itself (`self`) with other noise. lost_move: a square attack of an earlier
    version, which still moved misclassified images; its results are read, and no new ones are made."""

    title: str
    eps: tuple[float, ...] = (0.1,)
    method: str = "pgd"
    steps: int = 40
    restarts: int = 1
    loss: str = "cross_entropy"
    surrogate: str | None = None
    draws: int = 1
    threat: str = "joint"
    lost_move: bool = False

    def flags(self, results: Path, name: str, seed: int) -> str:
        words = [f"--eps {' '.join(map(str, self.eps))} --attack_method {self.method} --attack_steps {self.steps}"]
        words += [f"--restarts {self.restarts} --threat {self.threat}"]
        words += [f"--attack_loss {self.loss}"] if self.method == "pgd" else []
        if self.surrogate:
            run_of = results / f"{name if self.surrogate == 'self' else OTHER[name]}_{seed}"
            words += [f"--surrogate {run_of} --surrogate_draws {self.draws}"]
        return " ".join(words)

    def matches(self, attack: dict, norm: str = "linf") -> bool:
        """True if `attack`, as read from attack.json, is this one in the ball of this norm."""
        wanted = {"method": self.method, "steps": self.steps, "restarts": self.restarts, "loss": self.loss}
        wanted |= {"step": MADRY / self.steps, "start": "random", "threat": self.threat, "norm": norm}
        wanted |= {"square_share": SQUARE if METHODS[self.method].squares and not self.lost_move else None}
        surrogate, source = attack["settings"]["attack"].get("surrogate"), None
        if surrogate:
            source = "self" if surrogate["weights_sha256"] == attack["weights_sha256"] else "other"
        draws = surrogate["draws"] if surrogate else 1
        settings = {name: attack["settings"]["attack"].get(name) for name in wanted}
        return settings == wanted and (source, draws) == (self.surrogate, self.draws)


CURVE, REMAINING = (
    Probe("40 steps", (0.06, 0.1)),
    Probe("40 steps, up the loss of the remaining images", (0.06, 0.1), threat="remaining"),
)
CURVES = (CURVE, REMAINING)  # made at every radius and shown as curves, too
PROBES = (
    Probe("10 steps", (0.06, 0.1), steps=10),
    CURVE,
    REMAINING,
    Probe("200 steps", steps=200),
    Probe("40 steps up the margin", (0.06, 0.1), loss="margin"),
    Probe("10 steps, one image at a time", (0.06, 0.1), steps=10, threat="single"),
    Probe("10 restarts, up the margin of the remaining images", restarts=10, loss="margin", threat="remaining"),
    Probe("40 steps with the other learner's gradients", surrogate="other"),
    Probe("40 steps with gradients over 4 other noise draws", surrogate="self", draws=4),
    Probe("square attack, 500 images", method="square", steps=500),
    Probe("40 steps, large balls", (0.2, 0.5)),
)


LOST_MOVE = Probe(
    "square attack, 500 images, misclassified ones moved, too", method="square", steps=500, lost_move=True
)
SUCCESSOR = next(probe for probe in PROBES if probe.method == LOST_MOVE.method)


def training(name: str, seed: int, flags: str) -> str:
    kind = KINDS[name]
    return f"{TRAIN} {SHOTS[kind.shot]} {kind.flags} --seed {seed} {flags} | {TEST} {flags}"


def runs(results: Path, flags: str) -> Iterator[str]:
    """Yield every run with the attacks of its curves as a line for train_all.py, seed 0 first."""
    curve = " | ".join(f"{ATTACK} --norm linf --threat {probe.threat} {flags}" for probe in CURVES)
    for seed in SEEDS:
        for name, kind in KINDS.items():
            if seed == 0 or name in OTHER:
                others = [f"{ATTACK} --norm {norm} {flags}" for norm in kind.norms if seed == 0]
                yield " | ".join([f"{results / name}_{seed}", training(name, seed, flags), curve, *others])
    others = regularisers_folder(results)
    for name, (kind, value) in REGULARISERS.items():
        if (others / f"{name}_0" / "meta_test.json").exists():
            yield f"{regularisers.line(others, kind, value, 0, flags, tested=True)} | {curve}"


def regularisers_folder(results: Path) -> Path:
    """Return the folder of the runs of the regularisers' study."""
    return results.parent / "regularisers"


def probes_of(name: str) -> list[Probe]:
    """Return the PROBES for a kind. Without noise a run is not its own surrogate: all draws have the same gradients."""
    return [probe for probe in PROBES if probe.surrogate != "self" or "metadrop" in name]


def probes(results: Path, flags: str) -> Iterator[str]:
    """Yield the runs of OTHER with the attacks of PROBES as lines for train_all.py."""
    for seed in SEEDS:
        for name in OTHER:
            further = [probe for probe in probes_of(name) if probe not in CURVES]
            attacks = " | ".join(f"{ATTACK} {probe.flags(results, name, seed)} {flags}" for probe in further)
            yield f"{results / name}_{seed} | {training(name, seed, flags)} | {attacks}"


# ---- the tables


FACTS = EPISODES | TRAINING | SAMPLES  # equal in all attacks of a table


def read_attacks(folder: Path, names: Iterable[str]) -> dict[str, dict[int, list[dict]]]:
    """Return kind -> seed -> its attacks, for the runs KIND_SEED in folder."""
    attacks = {}
    for name in names:
        for seed in SEEDS:
            paths = sorted((folder / f"{name}_{seed}/tests").glob("attack-*.json"))
            if paths:
                tried = [read_attack(path) | {"savedir": path} for path in paths]
                tried.sort(key=attack_time)  # the latest one counts
                attacks.setdefault(name, {})[seed] = tried
    return attacks


def accuracies(tried: list[dict], probe: Probe, eps: float) -> np.ndarray | None:
    """Return the accuracies of the episodes under this attack at eps; None if there is no such attack."""
    for attack in reversed(tried):
        if probe.matches(attack) and eps in attack["eps"]:
            return attack["accuracies"][attack["eps"].index(eps)]
    return None


def curves(attacks: dict[str, dict[int, list[dict]]]) -> None:
    """Print a table per norm and attack of CURVES: accuracy by eps, mean over seeds with its interval."""
    for (norm, ball), probe in itertools.product(NORMS.items(), CURVES):
        rows = []
        for name, seeds in attacks.items():
            by_seed = {
                seed: attack["accuracy"]
                for seed, tried in seeds.items()
                for attack in tried
                if tuple(attack["eps"]) == ball.budgets and probe.matches(attack, norm)
            }
            if by_seed:
                cells = [over_seeds(column) for column in zip(*by_seed.values(), strict=True)]
                rows.append(f"| {TITLES[name]} | {len(by_seed)} | {' | '.join(cells)} |")
        if rows:
            print(
                f"\n| {norm}{THREATS[probe.threat]}, eps | seeds | {' | '.join(f'{eps:g}' for eps in ball.budgets)} |"
            )
            print("|" + "---|" * (len(ball.budgets) + 2))
            print(*rows, sep="\n")


def compare_attacks(attacks: dict[str, dict[int, list[dict]]]) -> None:
    """Print the accuracy under every probe, and the lead of Meta-dropout over MAML with the same gradient."""
    names = [name for name in OTHER if name in attacks]
    print(f"\n| attack, linf | eps | {' | '.join(TITLES[name] for name in names)} |", end="")
    print(" Meta-dropout - MAML | the same, exact gradients |")
    print("|" + "---|" * (len(names) + 4))
    at_most = {}  # kind -> seed -> attack -> the accuracies of all episodes under it at 0.1
    for probe in (*PROBES, LOST_MOVE):
        for eps in probe.eps:
            by_kind = {}
            for name in names:
                for seed, tried in attacks[name].items():
                    values = accuracies(tried, probe, eps)
                    if values is not None:
                        by_kind.setdefault(name, {})[seed] = values
                        known = SUCCESSOR if probe.lost_move else probe
                        if eps == 0.1 and known in probes_of(name):
                            at_most.setdefault(name, {}).setdefault(seed, {}).setdefault(known, values)
            row(probe.title, eps, names, by_kind)
    strongest = {}  # of runs with all attacks, since fewer attacks would favour a run
    for name, seeds in at_most.items():
        every = sum(0.1 in probe.eps for probe in probes_of(name))
        for seed, tried in seeds.items():
            if len(tried) == every:
                strongest.setdefault(name, {})[seed] = np.minimum.reduce(list(tried.values()))
    row("the strongest of these attacks in every episode", 0.1, names, strongest)


def row(title: str, eps: float, names: list[str], by_kind: dict[str, dict[int, np.ndarray]]) -> None:
    if not by_kind:
        return
    cells = [over_seeds([values.mean() for values in by_kind.get(name, {}).values()]) if name in by_kind else ""
             for name in names]  # fmt: skip
    for one, other in (("maml", "metadrop"), ("maml_exact", "metadrop_exact")):
        a, b = by_kind.get(one, {}), by_kind.get(other, {})
        differences = [mean_and_interval((b[seed] - a[seed]) / 100)[0] for seed in sorted(a.keys() & b.keys())]
        cells.append(over_seeds(differences, "+") if differences else "")
    print(f"| {title} | {eps:g} | {' | '.join(cells)} |")


def measures(attacks: dict[str, dict[int, list[dict]]]) -> None:
    """Print measures of the logits and gradients of the clean images, mean over seeds."""
    print(f"\n| | {' | '.join(CLEAN)} |\n|---|---|---|---|---|")
    for name, seeds in attacks.items():
        by_seed = {seed: attack["clean"] for seed, tried in seeds.items() for attack in tried if CURVE.matches(attack)}
        if by_seed:
            cells = [f"{np.mean([one[measure] for one in by_seed.values()]):.3g}" for measure in CLEAN]
            print(f"| {TITLES[name]} | {' | '.join(cells)} |")


def main() -> None:
    usage, flags = split_command(sys.argv[1:])
    parser = Parser(prog="robustness.py", description=__doc__.split("\n\n")[0])
    default = ROOT / "results/robustness"
    parser.add_argument("results", nargs="?", default=default, type=Path, help="folder of the runs")
    parser.add_argument("--runs", action="store_true", help="print the runs and the attacks of their curves")
    parser.add_argument("--probes", action="store_true", help="print further attacks on them")
    args = parser.parse_args(usage)
    if args.runs or args.probes:
        print(*(runs if args.runs else probes)(args.results, flags), sep="\n")
        return
    attacks = read_attacks(args.results, [*KINDS, *SHIPPED])
    attacks |= read_attacks(regularisers_folder(args.results), REGULARISERS)
    if not attacks:
        raise UserError(f"{args.results} has no attacks: run runfiles/robustness.sh first")
    by_task = {}
    for name, seeds in attacks.items():
        task = next(task for task in TASKS if name.endswith(task))
        by_task.setdefault(task, []).extend(attack for tried in seeds.values() for attack in tried)
    for same in by_task.values():
        refuse_mixed(same, FACTS)
    curves(attacks)
    compare_attacks(attacks)
    measures(attacks)


if __name__ == "__main__":
    run(main)
