"""Figures of attacks: the curves of runs beside the paper's, and the attacked images."""

import json

import numpy as np
import pytest

from conftest import assert_refused, call, succeed
from figures import robustness
from figures.page import Section
from figures.run import Run
from figures.style import BLUE, ORANGE
from learners import LEARNERS
from looks import Look, band, colour_of, hexed, legend, only

RADII = {
    "linf": (0, 0.02, 0.04, 0.06, 0.08, 0.1),
    "l2": (0, 1, 2, 3, 4, 5),
    "l1": (0, 20, 40, 60, 80, 100),
    "l1_dense": (0, 20, 40, 60, 80, 100),
}


def write_attack(savedir, norm, accuracy, digest, time="2026-01-01", eps=(0, 0.1, 0.05), sheet=True, **attack):
    """Write the files of --mode attack; the latest attack is in attack.json. attack: settings; None leaves one out."""
    accuracies = np.array(accuracy)[:, None] + [[-1, 1]]
    content = {"eps": eps, "accuracy": accuracy, "interval95": [1, 2, 3, 4, 5, 6][: len(eps)]}
    content |= {"accuracies": accuracies.tolist(), "episodes_sha256": "a", "provenance": {"time": time}}
    settings = {"method": "pgd", "norm": norm, "steps": 7, "restarts": 1, "threat": "joint", "loss": "cross_entropy"}
    settings = {name: value for name, value in (settings | attack).items() if value is not None}
    content |= {"settings": {"attack": settings}}
    (savedir / "tests").mkdir(parents=True, exist_ok=True)
    for path in (savedir / "attack.json", savedir / "tests" / f"attack-{digest}.json"):
        path.write_text(json.dumps(content))
    (savedir / "config.json").write_text(json.dumps({"model": "maml"}))
    if sheet:
        images, clean = np.full((len(eps), 2, 16, 16, 1), 0.5), np.full((2, 16, 16, 1), 0.5)
        images[-2, 1, 0, 0], images[-1, 1, 0, 1] = 0.6, 0.45
        labels = [[0, 1]] * (len(eps) - 2) + [[0, 0], [0, 1]]
        np.savez(savedir / "tests" / f"attack-{digest}.npz", images=images, labels=labels, clean=clean)


def test_the_latest_attack_of_each_norm_is_drawn(tmp_path):
    write_attack(tmp_path, "l2", [90, 20, 60], "b", "2026-01-02")
    write_attack(tmp_path, "l2", [80, 10, 50], "a", "2026-01-01")
    write_attack(tmp_path, "linf", [70, 30, 40], "c", sheet=False)
    run = Run(tmp_path, {"model": "maml"}, "MAML")
    assert run.attacks["l2", "joint"]["accuracy"] == [90, 20, 60] and run.attacks["linf", "joint"]["sheet"] is None
    (tmp_path / "tests/attack-c.json").unlink()
    assert Run(tmp_path, {}).attacks["linf", "joint"]["accuracy"] == [70, 30, 40]  # attack.json is there still
    figure = robustness.panels([run])
    _, l2 = figure.axes
    (mine,) = (line for line in l2.lines if line.get_label() == "MAML")
    np.testing.assert_array_equal(mine.get_xdata(), [0, 0.05, 0.1])  # in order
    np.testing.assert_array_equal(mine.get_ydata(), [90, 60, 20])
    np.testing.assert_allclose(band(l2, mine.get_color()), [(0, 89, 91), (0.05, 57, 63), (0.1, 18, 22)])


def test_a_panel_is_of_the_attacks_tasks_and_not_of_the_trainings(tmp_path):
    write_attack(tmp_path, "linf", [70, 30, 40], "a")
    for path in (tmp_path / "attack.json", tmp_path / "tests/attack-a.json"):
        content = json.loads(path.read_text())
        content["settings"] |= {"shot": 5, "way": 20, "dataset": "omniglot"}
        path.write_text(json.dumps(content))
    run = Run(tmp_path, {"model": "maml", "way": 5, "shot": 1, "dataset": "omniglot"}, "MAML")
    assert robustness.tasks_of(run, ("linf", "joint")) == ("omniglot", 20, 5)
    (panel,) = robustness.panels([run]).axes
    (paper,) = (line for line in panel.lines if line.get_label() == "MAML, paper")
    np.testing.assert_array_equal(paper.get_ydata(), robustness.PAPER["MAML"][5, "linf"])


def test_in_every_panel_the_curves_are_those_that_the_legend_names(tmp_path):
    """Two runs and two norms, in percent; the paper's curves are dotted, in the colours of their learners."""
    runs, numbers = [], {"maml": {"linf": [90, 20, 60], "l2": [80, 10, 50]}, "metadrop": {"linf": [95, 70, 85]}}
    for number, (model, norms) in enumerate(numbers.items()):
        for norm, accuracy in norms.items():
            write_attack(tmp_path / model, norm, accuracy, norm)
        runs.append(Run(tmp_path / model, {"model": model, "shot": 1}, f"called {number}"))
    figure = robustness.panels(runs)
    names = {"MAML": BLUE, "Meta-dropout": ORANGE}
    looks = {name: Look(hexed(colour), "-", "o", hexed(colour)) for name, colour in names.items()}
    looks |= {f"{name}, paper": own._replace(line=":", marker="none", fill="none") for name, own in looks.items()}
    assert legend(figure) == looks
    linf, l2 = figure.axes
    assert (linf.get_xlabel(), l2.get_xlabel()) == ("eps, L∞", "eps, L2")
    assert (linf.get_ylabel(), l2.get_ylabel(), linf.get_ylim()) == ("accuracy under attack (%)", "", (0, 100))
    for ax, norm in ((linf, "linf"), (l2, "l2")):
        own = {name: numbers[model][norm] for name, model in zip(names, numbers, strict=True) if norm in numbers[model]}
        shown = only(ax)
        assert set(shown) == {*own, *PAPER}
        for name, (first, last, middle) in own.items():
            np.testing.assert_array_equal(shown[name].get_xdata(), [0, 0.05, 0.1])
            np.testing.assert_array_equal(shown[name].get_ydata(), [first, middle, last])
            wanted = [(0, first - 1, first + 1), (0.05, middle - 3, middle + 3), (0.1, last - 2, last + 2)]
            np.testing.assert_allclose(band(ax, names[name]), wanted)
        for name, curves in PAPER.items():
            np.testing.assert_array_equal(shown[name].get_ydata(), curves[1, norm])


@pytest.mark.parametrize("norm", RADII)
@pytest.mark.parametrize(
    "other",
    [
        {"method": "square"},
        {"surrogate": {"weights_sha256": "w", "draws": 1}},
        {"eps": (0, 0.2, 0.3, 0.5, 0.7, 0.9)},
        {"eps": (0, 0.1)},
    ],
    ids=["square", "surrogate", "larger", "fewer"],
)
def test_a_later_attack_of_another_kind_is_not_drawn_in_place_of_the_usual_one(norm, other, tmp_path):
    usual = {"eps": RADII[norm]}

    def write(first, digest, day, **attack):
        eps = attack["eps"]
        write_attack(tmp_path, norm, [first - i for i in range(len(eps))], digest, f"2026-01-0{day}", **attack)
        return Run(tmp_path, {}).attacks[norm, "joint"]["accuracy"][0]

    assert write(80, "e", 4, **(usual | other)) == 80  # alone it is
    assert write(70, "d", 5, **(usual | other)) == 70  # the later one of two
    assert write(60, "a", 3, **usual) == 60
    assert write(50, "f", 2, **usual) == 60
    assert write(40, "c", 6, **usual, method=None) == 40  # an older version recorded no method
    assert write(30, "b", 7, **(usual | other)) == 40
    drawn = Run(tmp_path, {}).attacks[norm, "joint"]
    assert drawn["sheet"]["images"].shape == (6, 2, 16, 16, 1) and drawn["sheet"]["clean"].shape == (2, 16, 16, 1)


# The figure of the paper, digitised; it has one kind of L1, and one norm with 5 shots.
PAPER = {
    "MAML, paper": {
        (1, "linf"): [95.2, 73.0, 62.2, 41.8, 15.5, 2.1],
        (1, "l2"): [95.2, 68.6, 54.1, 37.0, 22.0, 10.8],
        (1, "l1"): [95.2, 68.7, 55.4, 37.8, 23.8, 12.0],
        (5, "linf"): [98.4, 83.2, 74.3, 53.4, 19.8, 2.8],
    },
    "Meta-dropout, paper": {
        (1, "linf"): [96.6, 89.2, 77.9, 69.2, 59.2, 49.2],
        (1, "l2"): [96.6, 77.3, 63.5, 53.6, 46.0, 41.0],
        (1, "l1"): [96.6, 75.5, 62.7, 52.4, 45.1, 39.9],
        (5, "linf"): [98.7, 89.1, 80.7, 71.2, 58.8, 43.3],
    },
}
TITLES = {"linf": "L∞", "l2": "L2", "l1": "L1, sparse steps", "l1_dense": "L1, dense steps"}


def test_a_panel_has_its_own_norms_radii_shots_and_the_papers_curves(tmp_path):
    places = [(norm, shot) for norm in RADII for shot in (1, 5, 10)]
    runs = []
    for name, own in (("one", places[::2]), ("other", places[1::2] + places[:1])):
        for norm, shot in own[::-1]:
            write_attack(tmp_path / f"{name}_{shot}", norm, [90, 20, 60], norm)
        runs += [
            Run(tmp_path / f"{name}_{shot}", {"model": "maml", "shot": shot}, f"{name} {shot}") for shot in (1, 5, 10)
        ]
    figure = robustness.panels(runs)
    assert [ax.get_xlabel() for ax in figure.axes] == [f"eps, {TITLES[norm]}, {shot}-shot" for norm, shot in places]
    for ax, place in zip(figure.axes, places, strict=True):
        norm, shot = place
        lines = {line.get_label(): line for line in ax.lines}
        own = {"one"} if place in places[::2] else {"other"}
        own |= {"other"} if place == places[0] else set()
        paper = (shot, norm.removesuffix("_dense"))
        assert lines.keys() - set(PAPER) == {f"{name} {shot}" for name in own}
        assert set(PAPER).issubset(lines) == (paper in PAPER["MAML, paper"])
        for name in set(PAPER) & set(lines):
            assert list(lines[name].get_xdata()) == list(RADII[norm])
            assert list(lines[name].get_ydata()) == PAPER[name][paper]


def test_the_papers_other_curves_are_drawn_with_the_learners_that_are_there(tmp_path):
    """They are dotted, in the colour of the learner's run. The paper has not trained every learner in every norm."""
    runs = []
    for name, own in (("mixed", {"perturbation": "mixup"}), ("trained", {"adversarial": "linf:0.1"})):
        for norm in ("linf", "l1_dense"):
            write_attack(tmp_path / name, norm, [90, 20, 60], norm)
        runs.append(Run(tmp_path / name, {"model": "maml", "shot": 1} | own, name))
    linf, dense = ({line.get_label(): line for line in ax.lines} for ax in robustness.panels(runs).axes)
    always = {"MAML, paper", "Meta-dropout, paper"}
    labels = {"MAML, mixup", "MAML, adversarial linf:0.1"}
    assert linf.keys() == always | labels | {f"{label}, paper" for label in labels}
    assert dense.keys() == always | labels | {"MAML, mixup, paper"}
    assert list(linf["MAML, adversarial linf:0.1, paper"].get_ydata()) == [94.3, 87.0, 75.4, 63.9, 51.8, 41.4]
    assert list(linf["MAML, mixup, paper"].get_ydata()) == [89.9, 24.5, 2.5, 0.6, 0.1, 0.0]
    assert list(dense["MAML, mixup, paper"].get_ydata()) == [89.9, 10.6, 1.8, 0.6, 0.3, 0.1]
    for label, colour in (("MAML, mixup", BLUE), ("MAML, adversarial linf:0.1", ORANGE)):
        assert linf[label].get_color() == linf[f"{label}, paper"].get_color() == colour
        assert linf[f"{label}, paper"].get_linestyle() == ":"


def test_the_papers_curve_of_a_dashed_run_is_not_that_of_the_run_of_its_colour(tmp_path):
    kinds = [{"perturbation": name} for name in ("none", "mixup", "vib", "information_dropout", "noise")]
    kinds += [{"adversarial": attack} for attack in ("linf:0.1", "linf:0.02")]
    runs = []
    for number, kind in enumerate(kinds):
        write_attack(tmp_path / str(number), "linf", [90, 20, 60], "b")
        runs.append(Run(tmp_path / str(number), {"model": "maml", "shot": 1} | kind, str(number)))
    figure = robustness.panels(runs)
    looks = {line.get_label(): (line.get_color(), line.get_linestyle()) for line in figure.axes[0].lines}
    last = "MAML, adversarial linf:0.02"
    assert (looks["MAML"], looks["MAML, paper"]) == ((BLUE, "-"), (BLUE, ":"))
    (colour, line), (papers_colour, papers_line) = looks[last], looks[f"{last}, paper"]
    assert colour == papers_colour != BLUE and (line, papers_line) == ("--", "-.")
    papers = [text.get_text().endswith("paper") for text in figure.legends[0].get_texts()]
    assert papers == sorted(papers) == [False] * 7 + [True] * 7


def test_runs_on_other_tasks_are_in_other_panels_and_those_trained_alike_look_alike(tmp_path):
    tasks, runs = [("5-way", "1-shot"), ("5-way", "5-shot"), ("20-way", "1-shot")], []
    for model in ("maml", "metadrop"):
        for way, shot in ((5, 5), (20, 1), (5, 1)):
            folder = tmp_path / f"{model}_{way}_{shot}"
            write_attack(folder, "linf", [90, 20, 60], "a")
            runs.append(Run(folder, {"model": model, "way": way, "shot": shot}, f"{model} ({folder.name})"))

    def drawn():
        return {
            ax.get_xlabel(): {
                line.get_label(): (line.get_color(), line.get_linestyle())
                for line in ax.lines
                if "paper" not in line.get_label()
            }
            for ax in robustness.panels(runs).axes
        }

    one = drawn()
    assert list(one) == [f"eps, L∞, {way}, {shot}" for way, shot in tasks]
    assert list(one.values()) == [{"MAML": (BLUE, "-"), "Meta-dropout": (ORANGE, "-")}] * 3
    # Where two of a learner are in a panel, each of its runs has its folder's name; the seventh line is dashed.
    write_attack(tmp_path / "seed 1", "linf", [90, 20, 60], "a")
    runs += [Run(tmp_path / "seed 1", {"model": "maml", "way": 5, "shot": 1}, "maml (seed 1)")]
    others = [model for model in LEARNERS if model not in ("maml", "metadrop")][:3]
    for model in others:
        write_attack(tmp_path / model, "linf", [90, 20, 60], "a")
        runs += [Run(tmp_path / model, {"model": model, "way": 5, "shot": 1}, model)]
    panel = drawn()["eps, L∞, 5-way, 1-shot"]
    titles = [LEARNERS[model].title for model in others]
    assert list(panel) == ["maml (maml_5_1)", "Meta-dropout", "maml (seed 1)", *titles]
    looks = [look for own in drawn().values() for look in own.values()]
    assert len(set(panel.values())) == 6 and {"-", "--"} == {line for _, line in looks}


def test_runs_on_another_dataset_are_in_panels_of_their_own_without_the_papers_curves(tmp_path):
    runs = []
    for dataset in ("omniglot", "glyphs"):
        write_attack(tmp_path / dataset, "linf", [90, 20, 60], "a")
        runs.append(Run(tmp_path / dataset, {"model": "maml", "dataset": dataset, "shot": 1}, dataset))
    drawn = {ax.get_xlabel(): [line.get_label() for line in ax.lines] for ax in robustness.panels(runs).axes}
    assert drawn == {"eps, L∞, glyphs": ["MAML"], "eps, L∞, omniglot": [*PAPER, "MAML"]}


def test_panels_are_in_rows_of_three_at_most(tmp_path):
    """Five panels: three above two, and the first of each row has the label of the y axis."""
    for norm in RADII:
        write_attack(tmp_path, norm, [90, 20, 60], norm)
    write_attack(tmp_path, "linf", [90, 10, 60], "remaining", threat="remaining")
    figure = robustness.panels([Run(tmp_path, {"model": "maml", "shot": 1}, "MAML")])
    places = [ax.get_subplotspec() for ax in figure.axes]
    assert [(place.rowspan.start, place.colspan.start) for place in places] == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)]
    assert [bool(ax.get_ylabel()) for ax in figure.axes] == [True, False, False, True, False]
    assert [ax.get_xlabel() for ax in figure.axes][:2] == ["eps, L∞", "eps, L∞, remaining images"]


def test_each_threat_has_a_panel_and_a_sheet_of_its_own(tmp_path):
    for day, (threat, first) in enumerate([("single", 30), ("remaining", 20), ("joint", 60), (None, 70)]):
        write_attack(tmp_path / "run", "linf", [90, first, 60], str(day), f"2026-01-0{day + 1}", threat=threat)
    run = Run(tmp_path / "run", {"model": "maml", "shot": 1}, "MAML")
    figure = robustness.panels([run])
    title = TITLES["linf"]
    names = ["", ", remaining images", ", one image at a time"]
    assert [ax.get_xlabel() for ax in figure.axes] == [f"eps, {title}{name}" for name in names]
    lines = [next(line for line in ax.lines if line.get_label() == "MAML") for ax in figure.axes]
    assert [line.get_ydata()[-1] for line in lines] == [70, 20, 30]  # an older version recorded no threat
    assert all(len(ax.lines) == 3 for ax in figure.axes)  # the paper's are behind each
    succeed("plot.py", "--savedir", tmp_path / "run", "--figures", "attack", "--format", "png", "--dpi", 40)
    page = (tmp_path / "run/plot/index.html").read_text()
    assert all(f'src="attacked_linf_{threat}.png"' in page for threat in ("joint", "remaining", "single"))


def test_a_single_panel_does_not_tell_shots_and_has_its_legend_whole(tmp_path):
    runs = []
    for adversarial in ("linf:0.02", None):
        write_attack(tmp_path / str(adversarial), "linf", [90, 20, 60], "b")
        config = {"model": "maml", "shot": 5, "adversarial": adversarial}
        runs.append(Run(tmp_path / str(adversarial), config, "named otherwise"))
    figure = robustness.panels(runs)
    assert [ax.get_xlabel() for ax in figure.axes] == ["eps, L∞"]
    figure.draw_without_rendering()
    (legend,) = figure.legends
    assert len(legend.get_texts()) == 5  # one of the paper of the run trained on attacked images, too
    box, whole = legend.get_window_extent(), figure.bbox
    assert whole.x0 <= box.x0 < box.x1 <= whole.x1 and whole.y0 <= box.y0 < box.y1 <= whole.y1


def test_the_caption_tells_how_the_runs_were_attacked(tmp_path):
    def described(*attacks):
        runs = []
        for number, attack in enumerate(attacks):
            write_attack(tmp_path / f"{len(attacks)}_{number}", "l2", [90, 20, 60], "a", **attack)
            runs.append(Run(tmp_path / f"{len(attacks)}_{number}", {"model": "maml"}, "MAML"))
        return robustness.describe(("l2", "joint"), runs)

    steps = "7 steps, 1 restart"
    assert described({}) == f"L2: 2 episodes, pgd, {steps}"
    assert described({"steps": 1, "restarts": 3}) == "L2: 2 episodes, pgd, 1 step, 3 restarts"
    assert described({"loss": "margin"}) == f"L2: 2 episodes, pgd of the margin, {steps}"
    assert described({"method": "square"}) == f"L2: 2 episodes, square, {steps}"
    surrogate = {"weights_sha256": "w", "draws": 1}
    assert described({"surrogate": surrogate}) == f"L2: 2 episodes, pgd, {steps}, with another run's gradients"
    own = {"settings": {"attack": {"method": "pgd", "steps": 7, "restarts": 1, "surrogate": surrogate}}}
    run = Run(tmp_path, {"model": "maml"}, "MAML")
    run.__dict__["attacks"] = {("l2", "joint"): own | {"weights_sha256": "w", "accuracies": np.zeros((1, 2))}}
    assert robustness.describe(("l2", "joint"), [run]).endswith(f"{steps}, with the run's gradients under other noise")
    assert described({}, {}) == f"L2: 2 episodes, pgd, {steps}"
    assert described({}, {"loss": "margin"}) == f"L2: 2 episodes, pgd, {steps} (other runs: other settings)"


def test_a_sheet_shows_what_was_added_and_what_an_image_is_taken_for(tmp_path):
    write_attack(tmp_path, "l2", [90, 20, 60], "b")
    figure = robustness.sheet(Run(tmp_path, {}).attacks["l2", "joint"])
    axes = np.array(figure.axes).reshape(6, 2)
    assert axes[2, 1].get_title() == "0" and axes[2, 0].get_title() == axes[4, 1].get_title() == ""
    added = axes[3, 1].images[0].get_array()
    assert added[0, 0] == pytest.approx(0.1) and np.count_nonzero(added) == 1
    assert axes[5, 1].images[0].get_array()[0, 1] == pytest.approx(-0.05)
    assert axes[5, 1].images[0].get_clim() == pytest.approx((-0.1, 0.1))
    assert axes[2, 0].get_ylabel() == "0.1"
    frames = np.array([{spine.get_edgecolor() for spine in ax.spines.values()} for ax in axes.flat]).reshape(6, 2)
    widths = np.array([{spine.get_linewidth() for spine in ax.spines.values()} for ax in axes.flat]).reshape(6, 2)
    (wrong,), (right,) = frames[2, 1], frames[2, 0]
    assert wrong != right and all(frames[place] == {right} for place in ((0, 0), (0, 1), (4, 0), (4, 1)))
    assert min(widths[2, 1]) > max(widths[2, 0]) and all(spine.get_visible() for spine in axes[2, 1].spines.values())
    assert not any(spine.get_visible() for ax in axes[1::2].flat for spine in ax.spines.values())


def test_a_sheets_colours_are_those_that_the_caption_says(tmp_path):
    """In grey images black is the highest value. Red raises, blue lowers; orange frames are errors."""
    write_attack(tmp_path, "l2", [90, 20, 60], "b")
    attack = Run(tmp_path, {}).attacks["l2", "joint"]
    axes = np.array(robustness.sheet(attack).axes).reshape(6, 2)
    (image,), (added,) = axes[2, 1].images, axes[3, 1].images
    assert (colour_of(image, 0), colour_of(image, 1)) == ("#ffffff", "#000000")
    red, _, blue = (int(colour_of(added, 0.1)[i : i + 2], 16) for i in (1, 3, 5))
    assert red > 2 * blue
    red, _, blue = (int(colour_of(added, -0.1)[i : i + 2], 16) for i in (1, 3, 5))
    assert blue > 2 * red and min(bytes.fromhex(colour_of(added, 0)[1:])) > 240  # no difference is nearly white
    frames = [hexed(next(iter(ax.spines.values())).get_edgecolor())[:7] for ax in (axes[2, 1], axes[2, 0])]
    assert frames == [ORANGE, BLUE] and axes[2, 1].title.get_color() == ORANGE
    assert [axes[2 * row, 0].get_ylabel() for row in range(3)] == ["0", "0.1", "0.05"]
    colourful = {
        "images": np.repeat(attack["sheet"]["images"], 3, -1),
        "clean": np.repeat(attack["sheet"]["clean"], 3, -1),
    }
    colourful["images"][1, 0, 2, 3] = (0.1, 0.5, 0.9)
    axes = np.array(robustness.sheet(attack | {"sheet": attack["sheet"] | colourful}).axes).reshape(6, 2)
    np.testing.assert_array_equal(axes[2, 0].images[0].get_array()[2, 3], (0.1, 0.5, 0.9))


def test_captions_name_the_run_the_norm_and_the_threat_of_what_is_drawn(tmp_path, monkeypatch):
    runs, asked = [], {}
    for number, dataset in enumerate(("glyphs", "omniglot")):
        folder = tmp_path / dataset
        for day, (norm, threat) in enumerate([("linf", "single"), ("l2", "joint")]):
            write_attack(folder, norm, [90, 20, 60], norm, f"2026-01-0{day + 1}", threat=threat)
        runs.append(Run(folder, {"model": "maml", "dataset": dataset, "shot": 1}, f"run {number}"))
    section = Section("Robustness", ["png"], 40)
    monkeypatch.setattr(section, "add", lambda name, caption, figure: asked.update({name: (caption, figure)}))
    monkeypatch.setattr(robustness, "sheet", lambda attack: attack)
    robustness.draw(runs, section, None, lambda: None)
    caption, _ = asked.pop("robustness")
    assert (
        "L∞, one image at a time: 2 episodes" in caption
        and "L2: 2 episodes" in caption
        and "the paper's curves" in caption
    )
    assert len(asked) == 4
    for number, run in enumerate(runs):
        for (norm, threat), title in {("linf", "single"): "L∞, one image at a time", ("l2", "joint"): "L2"}.items():
            caption, attack = asked[f"attacked_{number}_{norm}_{threat}"]
            assert caption.startswith(f"run {number}, {title}: for each eps, the first query image")
            assert "red raises" in caption and "orange frame is misclassified" in caption
            assert attack is run.attacks[norm, threat]
    robustness.draw(runs[:1], section, None, lambda: None)
    assert "paper" not in asked["robustness"][0]  # on other data it has no curves


def test_a_sheet_without_eps_0_shows_the_perturbation_of_the_clean_image(tmp_path):
    write_attack(tmp_path, "l2", [20, 60], "b", eps=(0.1, 0.05))
    figure = robustness.sheet(Run(tmp_path, {}).attacks["l2", "joint"])
    first, second = (np.array(figure.axes).reshape(4, 2)[row, 1].images[0].get_array() for row in (1, 3))
    assert first[0, 0] == pytest.approx(0.1) and second[0, 1] == pytest.approx(-0.05)
    assert np.count_nonzero(first) == np.count_nonzero(second) == 1


def test_the_page_has_the_attacks_or_says_why_not(tmp_path):
    write_attack(tmp_path, "l1", [90, 20, 60], "b")
    succeed("plot.py", "--savedir", tmp_path, "--figures", "attack", "--format", "png", "--dpi", 40)
    page = (tmp_path / "plot/index.html").read_text()
    assert (
        'src="robustness.png"' in page and 'src="attacked_l1_joint.png"' in page and "2 episodes, pgd, 7 steps" in page
    )
    (tmp_path / "tests/attack-b.json").write_text("{")
    flags = ("--savedir", tmp_path, "--figures", "attack")
    assert_refused(call("plot.py", *flags), "attack-b.json cannot be read")
    (tmp_path / "attack.json").unlink()
    assert_refused(call("plot.py", *flags), "--mode attack --savedir")
