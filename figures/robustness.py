"""Draw accuracy under attack by the size of the perturbation, beside the paper's curves; and the attacked images."""

from collections import Counter
from collections.abc import Callable
from itertools import compress
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from attacks import NORMS, THREATS
from figures.page import Section
from figures.run import Run
from figures.selection import Selection
from figures.style import BLUE, ORANGE, RUN_COLOURS, coloured, draw_curve

# The paper's figure of adversarial robustness, Omniglot 20-way, digitised to half a point: accuracy at the radii of
# NORMS, by learner, shots and norm. The paper's attack was not released, and its kind of L1 step is unknown.
PAPER = {
    "MAML": {
        (1, "linf"): (95.2, 73.0, 62.2, 41.8, 15.5, 2.1),
        (1, "l2"): (95.2, 68.6, 54.1, 37.0, 22.0, 10.8),
        (1, "l1"): (95.2, 68.7, 55.4, 37.8, 23.8, 12.0),
        (5, "linf"): (98.4, 83.2, 74.3, 53.4, 19.8, 2.8),
    },
    "Meta-dropout": {
        (1, "linf"): (96.6, 89.2, 77.9, 69.2, 59.2, 49.2),
        (1, "l2"): (96.6, 77.3, 63.5, 53.6, 46.0, 41.0),
        (1, "l1"): (96.6, 75.5, 62.7, 52.4, 45.1, 39.9),
        (5, "linf"): (98.7, 89.1, 80.7, 71.2, 58.8, 43.3),
    },
    "MAML, mixup": {
        (1, "linf"): (89.9, 24.5, 2.5, 0.6, 0.1, 0.0),
        (1, "l2"): (89.9, 12.2, 1.9, 0.5, 0.2, 0.1),
        (1, "l1"): (89.9, 10.6, 1.8, 0.6, 0.3, 0.1),
        (5, "linf"): (98.0, 28.0, 1.5, 0.1, 0.0, 0.0),
    },
    "MAML, vib": {
        (1, "linf"): (95.0, 73.9, 55.3, 39.8, 22.9, 10.9),
        (1, "l2"): (95.0, 60.1, 36.8, 22.1, 14.0, 9.3),
        (1, "l1"): (95.0, 59.7, 36.3, 21.4, 13.5, 9.4),
        (5, "linf"): (98.9, 90.6, 69.2, 51.0, 26.4, 8.6),
    },
    "MAML, information_dropout": {
        (1, "linf"): (94.5, 74.8, 62.4, 48.2, 25.0, 6.2),
        (1, "l2"): (94.5, 66.2, 50.7, 35.5, 22.6, 13.0),
        (1, "l1"): (94.5, 65.7, 51.0, 36.0, 23.1, 13.4),
        (5, "linf"): (98.7, 95.8, 72.0, 57.3, 37.0, 14.8),
    },
    "MAML, adversarial linf:0.02": {
        (1, "linf"): (95.3, 79.8, 67.0, 55.2, 32.4, 9.6),
        (5, "linf"): (98.0, 93.6, 82.9, 71.8, 36.4, 5.6),
    },
    "MAML, adversarial linf:0.1": {
        (1, "linf"): (94.3, 87.0, 75.4, 63.9, 51.8, 41.4),
        (5, "linf"): (97.0, 95.1, 92.2, 86.3, 77.5, 66.9),
    },
    "MAML, adversarial l2:1": {(1, "l2"): (94.0, 36.0, 13.8, 5.2, 2.0, 0.9)},
    "MAML, adversarial l2:5": {(1, "l2"): (91.4, 79.4, 67.4, 60.4, 55.8, 50.5)},
    "MAML, adversarial l1:20": {(1, "l1"): (92.0, 58.5, 33.8, 18.0, 9.7, 6.2)},
    "MAML, adversarial l1:100": {(1, "l1"): (90.5, 75.5, 60.7, 51.6, 44.3, 35.6)},
}
Kind = tuple[str, str]  # norm and threat
TITLES = {(norm, threat): NORMS[norm].title + THREATS[threat] for norm in NORMS for threat in THREATS}
# The paper's curves of these two learners are always drawn; this is their look if no run has the learner.
GREYS = {"MAML": {"color": "0.6", "linestyle": "-"}, "Meta-dropout": {"color": "0.25", "linestyle": "-"}}
PAPER_SUFFIX = ", paper"  # of the labels of the paper's curves
COLUMNS = 3  # of panels, at most
CLASSES = 10  # in a sheet of images, at most
LINES = {"-": ":", "--": "-."}  # line style of a run -> line style of the paper's curve of its learner


def draw(runs: list[Run], section: Section, selection: Selection, advance: Callable[..., object]) -> None:
    """Draw accuracies in a panel per norm, threat and kind of task, and a sheet of images per run, norm and threat."""
    figure = panels(runs)
    caption = "Accuracy on the query images of test tasks under attack, by the largest norm of the perturbation. "
    caption += "Bands are 95 % intervals over episodes. "
    caption += "; ".join(describe(kind, runs) for kind in TITLES if any(kind in run.attacks for run in runs))
    if any(text.get_text().endswith(PAPER_SUFFIX) for text in figure.legends[0].get_texts()):
        caption += ". Dotted or dash-dotted: the paper's curves of MAML, Meta-dropout and these learners (digitised, "
        caption += "Omniglot 20-way, another attack)"
    section.add("robustness", f"{caption}.", figure)
    for number, run in enumerate(runs):
        for kind, attack in run.attacks.items():
            if attack["sheet"] is not None:
                caption = (
                    f"{run.name}, {TITLES[kind]}: for each eps, the first query image of every class (of {CLASSES} at "
                    f"most) of the first test task at the worst point of the attack, and below it the perturbation: "
                    f"red raises the value of a pixel, blue lowers it. In a grey image black is the highest value. An "
                    f"image in an orange frame is misclassified; the number is the predicted class."
                )
                name = "_".join(["attacked", *[str(number)] * (len(runs) > 1), *kind])
                section.add(name, caption, sheet(attack))
    advance()


def describe(kind: Kind, runs: list[Run]) -> str:
    """Say how the runs were attacked in this norm under this threat model."""
    attacks = [run.attacks[kind] for run in runs if kind in run.attacks]
    first = attacks[0]["settings"]["attack"]
    episodes = " or ".join(dict.fromkeys(str(attack["accuracies"].shape[1]) for attack in attacks))
    method = first.get("method", "pgd") + " of the margin" * (first.get("loss") == "margin")
    words = [f"{episodes} episodes", method]
    for noun in ("step", "restart"):
        number = first.get(f"{noun}s")
        words.append(f"{number} {noun}" + "s" * (number != 1))
    if surrogate := first.get("surrogate", {}).get("weights_sha256"):
        same = surrogate == attacks[0].get("weights_sha256")
        words.append("with the run's gradients under other noise" if same else "with another run's gradients")
    alike = all(attack["settings"]["attack"] == first for attack in attacks)
    return f"{TITLES[kind]}: {', '.join(words)}" + " (other runs: other settings)" * (not alike)


def panels(runs: list[Run]) -> Figure:
    """Draw the curves of all runs, a panel per norm, threat, dataset, way and number of shots."""
    shown = {}  # (norm and threat, dataset, way, shots) -> the runs in this panel
    for kind in TITLES:
        for run in sorted((run for run in runs if kind in run.attacks), key=lambda run: tasks_of(run, kind)):
            shown.setdefault((kind, *tasks_of(run, kind)), []).append(run)
    varies = [len(set(values)) > 1 for values in [*zip(*shown, strict=True)][1:]]
    rows = -(-len(shown) // COLUMNS)
    columns = -(-len(shown) // rows)
    fig = Figure(figsize=(3 * columns + 2.2, 3 * rows))
    grid = fig.subplots(rows, columns, sharey=True, squeeze=False)
    for ax in grid[:, 0]:
        ax.set_ylabel("accuracy under attack (%)")
    for ax in grid.ravel()[len(shown) :]:
        ax.remove()
    looks = choose_looks(runs, list(shown.values()))
    look_of = GREYS | {run.learner: looks[run.savedir] for run in reversed(runs)}
    for ax, ((kind, dataset, way, shot), members) in zip(fig.axes, shown.items(), strict=True):
        radii = NORMS[kind[0]].budgets
        for learner, curves in PAPER.items():
            curve = curves.get((shot, kind[0].removesuffix("_dense")))
            if curve and learner in look_of and dataset == "omniglot":
                line = LINES[look_of[learner]["linestyle"]]
                ax.plot(radii, curve, line, color=look_of[learner]["color"], label=learner + PAPER_SUFFIX)
        for run in members:
            columns = [run.attacks[kind][name] for name in ("eps", "accuracy", "interval95")]
            draw_curve(ax, *np.array(columns)[:, np.argsort(columns[0])], **looks[run.savedir])
        words = compress((dataset, f"{way}-way", f"{shot}-shot"), varies)
        ax.set(xlabel=", ".join([f"eps, {TITLES[kind]}", *words]), ylim=(0, 100))
    handles = {label: handle for ax in fig.axes for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    labels = sorted(handles, key=lambda label: label.endswith(PAPER_SUFFIX))
    fig.legend([handles[label] for label in labels], labels, loc="outside right center")
    return fig


def tasks_of(run: Run, kind: Kind) -> tuple[str, int, int]:
    """Return the dataset, the way and the number of shots of an attack's tasks; 0 for an unknown number."""
    settings = run.config | run.attacks[kind]["settings"]
    return settings.get("dataset", "omniglot"), settings.get("way") or 0, settings.get("shot") or 0


def choose_looks(runs: list[Run], panels: list[list[Run]]) -> dict[Path, dict]:
    """Return the label, colour and line style of each run, by savedir. panels: the runs in each panel.

    Runs with the same settings but other tasks look the same, unless two of them are in one panel. After six runs the
    lines are dashed, too.
    """
    crowded = {learner for members in panels for learner, n in Counter(run.learner for run in members).items() if n > 1}
    labels = {run.savedir: run.label if run.learner in crowded else run.learner for run in runs}
    looks = {
        label: {"label": label, "color": colour, "linestyle": [*LINES][number // len(RUN_COLOURS) % len(LINES)]}
        for number, (colour, label, _) in enumerate(coloured(dict.fromkeys(labels.values())))
    }
    return {savedir: looks[label] for savedir, label in labels.items()}


def sheet(attack: dict) -> Figure:
    """Draw a column per class and two rows per radius: the attacked image, and the perturbation."""
    (images, labels, clean), eps = (attack["sheet"][name] for name in ("images", "labels", "clean")), attack["eps"]
    added = (images - clean).mean(-1)
    largest = max(np.abs(images - clean).max(), 1e-6)
    columns = min(images.shape[1], CLASSES)
    fig = Figure(figsize=(0.55 * columns + 0.8, 1.1 * len(eps)))
    axes = fig.subplots(2 * len(eps), columns, squeeze=False)
    for i, radius in enumerate(eps):
        for c, (above, below) in enumerate(axes[2 * i : 2 * i + 2].T):
            above.imshow(images[i, c], cmap="Greys", vmin=0, vmax=1)  # ink on white, if it is grey
            below.imshow(added[i, c], cmap="RdBu_r", vmin=-largest, vmax=largest)
            wrong = labels[i, c] != c
            if wrong:
                above.set_title(str(labels[i, c]), color=ORANGE, pad=1)
            for ax in (above, below):
                ax.set(xticks=[], yticks=[])
                for spine in ax.spines.values():
                    spine.set(visible=ax is above, color=ORANGE if wrong else BLUE, linewidth=1.5 if wrong else 0.3)
        axes[2 * i, 0].set_ylabel(f"{radius:g}", rotation=0, ha="right", va="center")
    return fig
