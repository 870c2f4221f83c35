"""The figures of runfiles/: which run each line and point is, by the legend and by the titles beside it."""

import json

import numpy as np
import pytest
from matplotlib import pyplot as plt
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from conftest import ROOT
from figures.style import BLUE, ORANGE
from looks import legend


@pytest.fixture
def drawn(monkeypatch, tmp_path):
    """drawn(draw, what): the figure that draw(what, file) saves."""
    monkeypatch.syspath_prepend(ROOT / "runfiles")

    def run(draw, what) -> Figure:
        saved = []
        monkeypatch.setattr(Figure, "savefig", lambda fig, file, **_: saved.append((fig, file)))
        draw(what, tmp_path / "f.png")
        [(fig, file)] = saved
        assert file == tmp_path / "f.png"
        return fig

    yield run
    plt.close("all")


def test_table_1s_curves_are_the_legends_with_their_intervals_and_the_papers_ends(drawn):
    import table1_curve

    numbers = {"maml": {20: (90, 0.3), 10: (80, 0.5), 30: (91, 1)}, "metadrop": {10: (81.5, 0.4), 20: (89.75, 0.6)}}
    curves = {
        model: {i: {"accuracy": a, "interval95": c, "episodes": 7, "iteration": i} for i, (a, c) in tests.items()}
        for model, tests in numbers.items()
    }
    (ax,) = drawn(table1_curve.figure, curves).axes
    looks = legend(ax)
    assert set(looks) == {"MAML", "MAML, paper", "Meta-dropout", "Meta-dropout, paper"}
    assert len({own.colour for own in looks.values()}) == 2
    for name, model, paper in (("MAML", "maml", 95.23), ("Meta-dropout", "metadrop", 96.63)):
        assert (looks[name].line, looks[f"{name}, paper"].line) == ("-", "--")
        assert looks[name].colour == looks[f"{name}, paper"].colour
        rgb = looks[name].colour[:7]
        (bars,) = (own for own in ax.containers if to_hex(own[0].get_color()) == rgb)
        iterations = sorted(numbers[model])
        accuracy, interval = np.transpose([numbers[model][i] for i in iterations])
        np.testing.assert_array_equal(bars[0].get_xydata(), np.transpose([iterations, accuracy]))
        ends = [segment[:, 1] for segment in bars[2][0].get_segments()]
        np.testing.assert_allclose(ends, np.transpose([accuracy - interval, accuracy + interval]))
        (end,) = (line for line in ax.lines if line.get_linestyle() == "--"
                  and to_hex(line.get_color()) == rgb)  # fmt: skip
        assert set(end.get_ydata()) == {paper}
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("meta-iteration", "test accuracy (%), 7 episodes")


def test_the_regularisers_points_are_beside_their_titles(drawn):
    import regularisers

    def row(title, loss, validation, accuracies):
        tests = {seed: {"accuracy": accuracy} for seed, accuracy in accuracies.items()}
        return regularisers.Row(title, "", 1, 1.0, loss, validation, tests, [])

    rows = {
        "maml": row("MAML", 0.5, 70, {0: 60, 1: 62, 2: 61}),
        "vib": row("VIB", 0.9, 64.5, {0: 59, 1: 60, 3: 99}),
        "head": row("ANIL", 0.7, 68, {0: 63, 1: 62, 2: 67}),
        "mixup": row("mixup", np.nan, 66, {}),
    }
    left, right = drawn(regularisers.figure, rows).axes
    places = dict(zip((text.get_text() for text in left.get_yticklabels()), left.get_yticks(), strict=True))
    wanted = {"VIB": [-2, -1], "ANIL": [0, 3, 6], "mixup": []}  # of the same seeds; the fourth has no pair
    assert list(places) == list(wanted)
    for title, differences in wanted.items():
        own = [line for line in left.lines if len(line.get_ydata()) and set(line.get_ydata()) == {places[title]}]
        shown = {line.get_marker(): sorted(line.get_xdata()) for line in own}
        assert shown == ({"o": differences, "|": [np.mean(differences)]} if differences else {})
    assert left.get_xlabel() == "difference from MAML's test accuracy with the same seed (points)"
    titles = {text.get_text(): text.xy for text in right.texts}
    assert titles == {"MAML": (0.5, 70), "VIB": (0.9, 64.5), "ANIL": (0.7, 68)}
    shown = {(line.get_xdata()[0], line.get_ydata()[0]): line.get_color() for line in right.lines}
    assert shown == {(0.5, 70): ORANGE, (0.9, 64.5): BLUE, (0.7, 68): BLUE}
    assert right.get_xlabel() == "training loss, last 200 iterations (nats)"
    assert right.get_ylabel() == "validation accuracy (%)"


def test_the_four_combinations_curves_are_the_means_over_the_seeds_that_the_legend_names(drawn, tmp_path):
    """Thick lines are means, thin ones of the same colour and style the seeds; what is before the first update is not
    drawn."""
    import omni_5way

    rng, logs = np.random.default_rng(0), {}
    for model in ("maml", "metadrop"):
        for gradient in ("published", "exact"):
            for seed in range(2):
                folder = tmp_path / f"{model}_{gradient}_{seed}"
                folder.mkdir()
                rows = [
                    (i, rng.uniform(0.2, 0.9), rng.uniform(0.5, 0.9) if i % 100 == 0 else "") for i in range(0, 250, 50)
                ]
                lines = [f"{i},1,{loss},0.9,0.4,{accuracy},0.01" for i, loss, accuracy in rows]
                (folder / "meta_train.csv").write_text(
                    "\n".join(["iter,secs,loss,acc,val_loss,val_acc,val_ci95", *lines])
                )
                test = {"accuracy": 90, "interval95": 1, "accuracies": [90], "episodes_sha256": "a"}
                (folder / "meta_test.json").write_text(json.dumps(test))
                logs.setdefault((model, gradient), []).append(rows[1:])
    losses, accuracies = drawn(omni_5way.figure, tmp_path).axes
    looks = legend(accuracies)
    names = {"maml": "MAML", "metadrop": "Meta-dropout"}
    assert set(looks) == {f"{names[model]}, {gradient}" for model, gradient in logs}
    for (model, gradient), seeds in logs.items():
        own = looks[f"{names[model]}, {gradient}"]
        for ax, column, scale, rows in ((losses, 1, 1, slice(None)), (accuracies, 2, 100, slice(1, None, 2))):
            values = scale * np.array([[row[column] for row in one[rows]] for one in seeds], float)
            alike = [
                line
                for line in ax.lines
                if (to_hex(line.get_color()), line.get_linestyle()) == (own.colour[:7], own.line)
            ]
            (mean,) = (line for line in alike if line.get_linewidth() == 2)
            np.testing.assert_array_equal(mean.get_xdata(), [row[0] for row in seeds[0][rows]])
            np.testing.assert_allclose(mean.get_ydata(), values.mean(0))
            thin = [line.get_ydata() for line in alike if line is not mean]
            np.testing.assert_allclose(sorted(map(tuple, thin)), sorted(map(tuple, values)))
    assert losses.get_ylabel().startswith("training loss") and accuracies.get_ylabel() == "validation accuracy (%)"
    assert losses.get_xlabel() == accuracies.get_xlabel() == "meta-iteration"
