"""The figures of studies: the numbers that each shows, and which run each line and point is, by the legend and by the
titles beside it."""

from dataclasses import replace

import numpy as np
import plots
import pytest
from catalogue import baselines_omniglot, collapse, exact, five_shot, gradients, regularisers, robustness, table1
from matplotlib import pyplot as plt
from matplotlib.colors import to_hex

from figures.robustness import TITLES
from figures.style import BLUE, ORANGE
from looks import legend, named
from study_runs import curve, made, shown, with_result


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close("all")


def of_study(study, figure, records) -> tuple[dict, list]:
    """Return the numbers of a study's figure and, if there are some, the axes that show them."""
    numbers = study.figures[figure].numbers(shown(study, records))
    return numbers, study.figures[figure].draw(numbers).axes if numbers else []


def test_differences_are_from_the_baseline_with_the_same_seed_beside_losses_of_its_kind():
    """60, 62 and 61 of MAML; the fourth seed has no pair."""
    study = replace(regularisers, seeds=(0, 1, 2, 3))
    accuracies = {"maml": {0: 60, 1: 62, 2: 61}, "vib": {0: 59, 1: 60, 3: 99}, "head": {0: 63, 1: 62, 2: 67}}
    validations = {"maml": 0.7, "vib": 0.645, "head": 0.68}
    losses = {"maml": (0.25, 0.75), "vib": (0.5, 1.3), "head": (0.6, 0.8)}
    records = [
        made(study, "vib", values={"vib_beta": beta}, curve=curve(800, validation=0.1)) for beta in ("1e-3", "1e-2")
    ]
    for name, of in accuracies.items():
        more = {"values": {"vib_beta": "1e-4"}} if name == "vib" else {}
        run = curve(800, losses[name], validations[name])
        records += [made(study, name, seed, [own], curve=run, **more) for seed, own in of.items()]
    records += [made(study, "protonet_wide", 0, [58])]
    numbers, (left, right) = of_study(study, "accuracy", records)
    assert numbers["machine"] == "A chip with AVX2" and numbers["rows"]["protonet_wide"]["loss"] is None
    places = dict(zip((text.get_text() for text in left.get_yticklabels()), left.get_yticks(), strict=True))
    wanted = {"VIB": [-2, -1], "ANIL": [0, 3, 6], "Prototypical Network, trained 60-way": [-2]}
    assert list(places) == list(wanted)
    for title, differences in wanted.items():
        own = [line for line in left.lines if set(line.get_ydata()) == {places[title]}]
        drawn = {line.get_marker(): sorted(line.get_xdata()) for line in own}
        assert drawn == {"o": differences, "|": [np.mean(differences)]}
    assert left.get_xlabel() == "difference from the test accuracy of MAML with the same seed (points)"
    points = {"MAML": (0.5, 70), "VIB": (0.9, 64.5), "ANIL": (0.7, 68)}
    assert {text.get_text(): tuple(np.round(text.xy, 6)) for text in right.texts} == points
    drawn = {(round(line.get_xdata()[0], 6), line.get_ydata()[0]): line.get_color() for line in right.lines}
    assert drawn == {points["MAML"]: ORANGE, points["VIB"]: BLUE, points["ANIL"]: BLUE}
    assert right.get_xlabel() == "training loss, last 200 iterations (nats)"
    assert right.get_ylabel() == "validation accuracy (%)"


def test_differences_without_a_baseline_are_no_figure():
    for names in (("weight", "variance"), ("maml",)):
        assert of_study(exact, "accuracy", [made(exact, name, 0, [5]) for name in names]) == ({}, [])


def test_each_panel_of_tests_has_its_own_differences_from_the_baseline_in_the_same_test():
    """50, 52 of MAML across, and 90, 91 at home; ANIL was not tested across; the nearest mean is left out."""
    study, records = replace(baselines_omniglot, seeds=(0, 1)), []
    for name, home, away in (("maml", (90, 91), (50, 52)), ("head", (92, 90), None), ("protonet", (93, 95), (49, 58)),
                             ("nearest", (40, 40), (30, 30))):  # fmt: skip
        for seed in (0, 1) if name != "nearest" else (0,):
            trained = {"values": {"meta_lr": "1e-3"}, "curve": curve(800)} if name != "nearest" else {}
            record = made(study, name, seed, [home[seed]], **trained)
            records.append(with_result(record, study.tests["across"].flags, [away[seed]]) if away else record)
    for name in ("maml", "head", "protonet"):
        records += [
            made(study, name, values={"meta_lr": r}, curve=curve(800, validation=0.1)) for r in ("3e-4", "3e-3")
        ]
    numbers, panels = of_study(study, "accuracy", records)
    assert numbers["machine"] == "A chip with AVX2"
    assert [ax.get_title() for ax in panels] == ["test classes of the same dataset", "glyphs"]
    assert {ax.get_xlabel() for ax in panels} == {"difference from MAML with the same seed (points)"}
    places = dict(zip((text.get_text() for text in panels[0].get_yticklabels()), panels[0].get_yticks(), strict=True))
    assert list(places) == ["ANIL", "Prototypical Network"]
    wanted = ({"ANIL": [-1, 2], "Prototypical Network": [3, 4]}, {"Prototypical Network": [-1, 6]})
    for ax, differences in zip(panels, wanted, strict=True):
        for title, place in places.items():
            own = [line for line in ax.lines if set(line.get_ydata()) == {place} and line.get_marker() in "o|"]
            drawn = {line.get_marker(): sorted(line.get_xdata()) for line in own}
            found = differences.get(title)
            assert drawn == ({"o": found, "|": [np.mean(found)]} if found else {}), title


def test_titles_of_near_points_lie_on_no_other_title():
    _, ax = plt.subplots(dpi=150)
    points = {"first title": (0.5, 0.5), "second title": (0.501, 0.502), "third title": (0.503, 0.499), "far": (0, 1)}
    ax.plot(*zip(*points.values(), strict=True), "o", ms=4)
    plots.write_titles(ax, points)
    boxes = [text.get_window_extent() for text in ax.texts]
    assert {text.get_text(): text.xy for text in ax.texts} == points
    assert not any(one.overlaps(other) for i, one in enumerate(boxes) for other in boxes[:i])


def test_curves_are_the_means_over_the_seeds_that_the_legend_names():
    """Thick lines are means, thin ones of the same colour the seeds; what is before the first update is not drawn."""
    logs = {
        "maml": (([1, 2], 0.5), ([5, 6], 0.7)), "metadrop_exact": (([2, 3], 0.25), ([4, 7], 0.75)),
    }  # fmt: skip
    records = [
        made(gradients, name, seed, [1], curve=curve(800, losses, validation))
        for name, of in logs.items() for seed, (losses, validation) in enumerate(of)
    ]  # fmt: skip
    _, axes = of_study(gradients, "curves", records)
    looks = legend(axes[1])
    titles = {"maml": "MAML", "metadrop_exact": "Meta-dropout, exact gradient"}
    assert set(looks) == {*titles.values()}
    for name, of in logs.items():
        losses = [[77, *own] for own, _ in of]
        accuracies = [[42, 100 * validation] for _, validation in of]
        for ax, iterations, values in ((axes[0], [600, 700, 800], losses), (axes[1], [600, 800], accuracies)):
            own = [line for line in ax.lines if to_hex(line.get_color()) == looks[titles[name]].colour[:7]]
            (mean,) = (line for line in own if line.get_linewidth() == 2)
            np.testing.assert_allclose(mean.get_data(), (iterations, np.mean(values, 0)))
            thin = [line.get_ydata() for line in own if line is not mean]
            np.testing.assert_allclose(sorted(map(tuple, thin)), sorted(map(tuple, values)))
    assert axes[0].get_ylabel().startswith("training loss") and axes[0].get_yscale() == "log"
    assert axes[1].get_ylabel() == "validation accuracy (%)"
    assert axes[0].get_xlabel() == axes[1].get_xlabel() == "meta-iteration"
    assert not of_study(five_shot, "curves", [replace(made(five_shot, "maml", 0, [1]), curve={})])[0]


def test_attacks_are_the_first_seeds_in_panels_of_their_own():
    """A panel for each norm and threat; the legend names the runs."""
    tests = {"joint": 80, "remaining": 60, "l2": 50}
    records = []
    for seed, less in ((0, 0), (1, 9)):
        for name, plus in (("maml", 0), ("metadrop", 5)):
            record = made(robustness, name, seed)
            for test, first in tests.items():
                accuracies = [[first + plus - less - 2 * i] * 2 for i in range(6)]
                record = with_result(record, robustness.tests[test].flags, accuracies)
            records.append(record)
    numbers, axes = of_study(robustness, "curves", records)
    assert {name: list(row["attacks"]) for name, row in numbers.items()} == {
        name: [*tests] for name in ("maml", "metadrop")
    }
    drawn = {ax.get_xlabel(): named(ax) for ax in axes}
    kinds = {"joint": ("linf", "joint"), "remaining": ("linf", "remaining"), "l2": ("l2", "joint")}
    assert set(drawn) == {f"eps, {TITLES[kind]}" for kind in kinds.values()}
    for test, kind in kinds.items():
        for name, plus in (("MAML", 0), ("Meta-dropout", 5)):
            (line,) = drawn[f"eps, {TITLES[kind]}"][name]
            np.testing.assert_allclose(line.get_ydata(), [tests[test] + plus - 2 * i for i in range(6)])


def test_progress_has_the_learners_intervals_and_the_papers_ends():
    tests = {"maml": {20: (90, 0.3), 10: (80, 0.5), 30: (91, 1)}, "metadrop": {10: (81.5, 0.4), 20: (89.75, 0.6)}}
    records = []
    for model, of in tests.items():
        record = made(table1, f"{model}_omni_1shot", curve={})
        for iteration, (accuracy, interval) in of.items():
            facts = {"iteration": iteration, "interval95": interval}
            record = with_result(record, table1.tests["test"].flags, [accuracy], **facts)
        records.append(record)
    _, (ax,) = of_study(table1, "omni_1shot", records)
    looks = legend(ax)
    assert set(looks) == {f"{title}, {what}" for title in ("MAML", "Meta-dropout") for what in ("test", "paper")}
    for title, model, paper in (("MAML", "maml", 95.23), ("Meta-dropout", "metadrop", 96.63)):
        test, end = (looks[f"{title}, {what}"] for what in ("test", "paper"))
        assert (test.line, end.line) == ("-", "--") and test.colour == end.colour
        (bars,) = (one for one in ax.containers if to_hex(one[0].get_color()) == test.colour[:7])
        points = np.array([(i, *values) for i, values in sorted(tests[model].items())])
        np.testing.assert_allclose(bars[0].get_xydata(), points[:, :2])
        ends = [segment[:, 1] for segment in bars[2][0].get_segments()]
        np.testing.assert_allclose(ends, points[:, 1:2] + points[:, 2:] * [-1, 1])
        dashed = [line for line in ax.lines if line.get_linestyle() == "--"]
        (end,) = (line for line in dashed if to_hex(line.get_color()) == test.colour[:7])
        assert set(end.get_ydata()) == {paper}
    assert looks["MAML, test"].colour != looks["Meta-dropout, test"].colour
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("meta-iteration", "accuracy (%), tests of 1000 episodes")


def test_progress_is_drawn_against_hours_where_they_are_known():
    """Validations as lines with bands; a test at the hour of its iteration, and not at all if its hour is unknown."""
    trained = made(table1, "maml_mimg_1shot", curve=curve(1000) | {"secs": [0, 3600.0, 5400.0, 7200.0]})
    facts = {"interval95": 0.5, "episodes": 1000}
    for iteration, accuracy in ((800, 45), (950, 46)):
        trained = with_result(trained, table1.tests["test"].flags, [accuracy], iteration=iteration, **facts)
    elsewhere = with_result(
        made(table1, "metadrop_mimg_1shot", curve={}), table1.tests["test"].flags, [50], iteration=10, **facts
    )
    numbers, (left, right) = of_study(table1, "mimg_1shot", [trained, elsewhere])
    assert numbers["maml"]["hours"] == [1, 1.75] and numbers["metadrop"]["hours"] == [None]
    assert (left.get_xlabel(), right.get_xlabel()) == ("meta-iteration", "hours of training")
    for axis, validated, tested in ((left, [800, 1000], [800, 950]), (right, [1, 2], [1, 1.75])):
        (line,) = (one for one in axis.lines if one.get_label() == "MAML, validation")
        np.testing.assert_allclose(line.get_xydata(), np.transpose([validated, [42, 90]]))
        assert axis.containers[0][0].get_xydata().tolist() == np.transpose([tested, [45, 46]]).tolist()
    assert (len(left.containers), len(right.containers)) == (2, 1)
    assert left.get_ylabel() == "accuracy (%), tests of 1000 episodes"
    numbers, axes = of_study(table1, "mimg_1shot", [replace(trained, results=[])])
    assert len(axes) == 2 and axes[0].get_ylabel() == "accuracy (%)"


def test_collapse_takes_what_was_measured_in_training_or_on_test_tasks():
    watched, rows = [{"iter": 5}], [{"step": 1}]
    flags = collapse.tests["collapse"].flags
    records = [replace(with_result(made(collapse, "maml"), flags, [1], rows=rows), collapse=watched)]
    records += [replace(made(collapse, "metadrop", 0, [1]), collapse=watched)]  # which was not measured on test tasks
    outcome = shown(collapse, records)
    found = {name: figure.numbers(outcome) for name, figure in collapse.figures.items()}
    assert found["traces"] == found["by_iteration"] == {"MAML": watched}
    assert found["by_step"] == found["by_layer"] == {"MAML": rows}
