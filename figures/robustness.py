"""Accuracy under attack by the attack's budget, beside the paper's curves, and the attacked images themselves."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from attacks import NORMS, THREATS
from figures.page import Section
from figures.run import Run
from figures.selection import Selection
from figures.style import BLUE, ORANGE, RUN_COLOURS, coloured

# The paper's figure of adversarial robustness, Omniglot 20-way, digitised to half a point: by learner, shots and norm,
# accuracy at the radii of NORMS. Its attack was not released; which kind of L1 step it took is not known.
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
TITLES = {(norm, threat): NORMS[norm].title + THREATS[threat] for norm in NORMS for threat in THREATS}  # of a panel
# How the paper's two curves look that are always drawn, where none of our runs is of their learner.
GREYS = {"MAML": {"color": "0.6", "linestyle": "-"}, "Meta-dropout": {"color": "0.25", "linestyle": "-"}}
PAPERS = ", paper"  # the end of its curves' labels
COLUMNS = 3  # of panels, at most
LINES = {"-": ":", "--": "-."}  # of a run, and of the paper's curve of the same learner


def draw(runs: list[Run], section: Section, selection: Selection, advance: Callable[..., object]) -> None:
    """A panel for each norm, threat, dataset and kind of task; a sheet of images for each run, norm and threat."""
    kinds = [kind for kind in TITLES if any(kind in run.attacks for run in runs)]
    caption = "Accuracy on the query images of test tasks under attack, by the largest norm of the perturbation; "
    caption += "bands are 95 % intervals over episodes. " + "; ".join(describe(kind, runs) for kind in kinds)
    figure = panels(runs)
    if any(text.get_text().endswith(PAPERS) for text in figure.legends[0].get_texts()):
        caption += ". Dotted, or dash-dotted: the paper's curves of the same learners, digitised (Omniglot 20-way, "
        caption += "another attack)"
    section.add("robustness", f"{caption}.", figure)
    for run in runs:
        for kind, attack in run.attacks.items():
            if attack["sheet"] is not None:
                numbers = [str(runs.index(run))] if len(runs) > 1 else []
                name = "_".join(["attacked", *numbers, *kind])
                caption = f"{run.name}, {TITLES[kind]}: the first query image of every class of the first test "
                caption += (
                    "task at its worst place, below it the perturbation, by eps: red raises a pixel's value, blue "
                )
                caption += "lowers it; in a grey image black is the highest. "
                caption += "Framed in orange: misclassified, as the class of the number."
                section.add(name, caption, sheet(attack))
    advance()


def describe(kind: tuple[str, str], runs: list[Run]) -> str:
    """How the runs were attacked in this norm by this threat."""
    told = [run.attacks[kind] for run in runs if kind in run.attacks]
    first = told[0]["settings"]["attack"]
    episodes = " or ".join(dict.fromkeys(str(attack["accuracies"].shape[1]) for attack in told))
    alike = "" if all(attack["settings"]["attack"] == first for attack in told) else " (others otherwise)"
    method = first.get("method", "pgd") + (" of the margin" if first.get("loss") == "margin" else "")
    steps = f"{method}, {counted(first.get('steps'), 'step')}, {counted(first.get('restarts'), 'restart')}"
    guide = first.get("surrogate", {}).get("weights_sha256")
    own = guide == told[0].get("weights_sha256")
    whose = ", by its own gradients of other noise" if own else ", by another run's gradients"
    return f"{TITLES[kind]}: {episodes} episodes, {steps}{whose if guide else ''}{alike}"


def counted(number: int | None, noun: str) -> str:
    return f"{number} {noun}" + "s" * (number != 1)


def panels(runs: list[Run]) -> Figure:
    shown = {}  # norm and threat, dataset, way, and shots -> the runs of these
    for run in runs:
        for kind in run.attacks:
            tasks = run.config.get("dataset", "omniglot"), run.config.get("way"), run.config.get("shot")
            shown.setdefault((kind, *tasks), []).append(run)
    datasets, ways, shots = ({place[i] for place in shown} for i in (1, 2, 3))
    rows = -(-len(shown) // COLUMNS)
    columns = -(-len(shown) // rows)
    fig = Figure(figsize=(3 * columns + 2.2, 3 * rows))
    grid = fig.subplots(rows, columns, sharey=True, squeeze=False)
    for ax in grid[:, 0]:
        ax.set_ylabel("accuracy under attack (%)")
    axes = grid.ravel()[: len(shown)]
    for ax in grid.ravel()[len(shown) :]:
        ax.remove()
    looks = looks_of(runs, list(shown.values()))
    ours = GREYS | {run.learner: looks[run.savedir] for run in reversed(runs)}
    order = list(TITLES)
    places = sorted(shown, key=lambda place: (order.index(place[0]), place[1], *(number or 0 for number in place[2:])))
    for ax, place in zip(axes, places, strict=True):
        (norm, _), dataset, way, shot = place
        for learner, accuracies in PAPER.items():
            own = accuracies.get((shot, norm.removesuffix("_dense")))
            if own and learner in ours and dataset == "omniglot":
                look = {"color": ours[learner]["color"], "linestyle": LINES[ours[learner]["linestyle"]]}
                ax.plot(NORMS[norm].budgets, own, label=f"{learner}{PAPERS}", **look)
        for run in shown[place]:
            draw_curve(ax, run.attacks[place[0]], **looks[run.savedir])
        task = [dataset] * (len(datasets) > 1) + [f"{way}-way"] * (len(ways) > 1) + [f"{shot}-shot"] * (len(shots) > 1)
        ax.set(xlabel=", ".join([f"eps, {TITLES[place[0]]}", *task]), ylim=(0, 100))
    handles = {label: handle for ax in axes for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    labels = sorted(handles, key=lambda label: label.endswith(PAPERS))
    fig.legend([handles[label] for label in labels], labels, loc="outside right center")
    return fig


def looks_of(runs: list[Run], panels: list[list[Run]]) -> dict[Path, dict]:
    """savedir -> the label, colour and line of a run. What was trained alike for several tasks looks alike, but where
    two such runs are in one panel. After six runs the lines are dashed, too."""
    alike = [Counter(run.learner for run in own) for own in panels]
    labels = {
        run.savedir: run.label if any(number[run.learner] > 1 for number in alike) else run.learner for run in runs
    }
    looks = {
        label: {"label": label, "color": colour, "linestyle": [*LINES][number // len(RUN_COLOURS) % len(LINES)]}
        for number, (colour, label, _) in enumerate(coloured(dict.fromkeys(labels.values())))
    }
    return {savedir: looks[label] for savedir, label in labels.items()}


def draw_curve(ax: Axes, attack: dict, **look) -> None:
    order = np.argsort(attack["eps"])
    eps, accuracy, interval = (np.array(attack[key])[order] for key in ("eps", "accuracy", "interval95"))
    ax.plot(eps, accuracy, marker="o", markersize=3, linewidth=1, **look)
    ax.fill_between(eps, accuracy - interval, accuracy + interval, color=look["color"], alpha=0.2, linewidth=0)


def sheet(attack: dict) -> Figure:
    """Columns are classes; two rows a radius: the image at its worst place, and what was added to the clean one."""
    (images, labels, clean), eps = (attack["sheet"][name] for name in ("images", "labels", "clean")), attack["eps"]
    shown = range(min(images.shape[1], 10))
    largest = max(np.abs(images - clean).max(), 1e-6)
    fig = Figure(figsize=(0.55 * len(shown) + 0.8, 1.1 * len(eps)))
    axes = fig.subplots(2 * len(eps), len(shown), squeeze=False)
    for i, radius in enumerate(eps):
        for column, c in enumerate(shown):
            above, below = axes[2 * i, column], axes[2 * i + 1, column]
            show(above, images[i, c])
            difference = (images[i, c] - clean[c]).mean(-1)
            below.imshow(difference, cmap="RdBu_r", vmin=-largest, vmax=largest)
            wrong = labels[i, c] != c
            if wrong:
                above.set_title(str(labels[i, c]), color=ORANGE, pad=1)
            for ax in (above, below):
                ax.set(xticks=[], yticks=[])
                for spine in ax.spines.values():
                    spine.set(visible=ax is above, color=ORANGE if wrong else BLUE, linewidth=1.5 if wrong else 0.3)
        axes[2 * i, 0].set_ylabel(f"{radius:g}", rotation=0, ha="right", va="center")
    return fig


def show(ax: Axes, image: np.ndarray) -> None:
    """An image [H,W,C] in [0, 1]: ink on white where it is grey."""
    if image.shape[-1] == 1:
        ax.imshow(image[..., 0], cmap="Greys", vmin=0, vmax=1)
    else:
        ax.imshow(image)
