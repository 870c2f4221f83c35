"""A missing or damaged file of a run is answered with one sentence and exit code 2. An unusual one is drawn."""

import json
import re

import numpy as np
import pytest

from conftest import assert_refused, call
from left_runs import collapse_rows, fake_export, write_collapse, write_run
from plotting import QUICK, draw
from studies import export_format


def test_an_export_that_does_not_fit_is_one_sentence(tmp_path):
    d = write_run(tmp_path / "old", version=0)
    flags = "--figures", "boundary", "--savedir"
    assert_refused(call("plot.py", *flags, d), "version 0, and this program reads version 1")
    d = write_run(tmp_path / "bare", copies=0)
    assert_refused(call("plot.py", *flags, d), "holds no perturbed copies")
    d = write_run(tmp_path / "a", "maml")
    arrays = dict(np.load(d / export_format.NAME))
    for name, damage, words in (
        ("support_features", lambda a: np.where(np.arange(len(a))[:, None, None, None] == 1, np.nan, a), "of task 1"),
        ("head_b", lambda a: a + np.inf, "head_b of task 0 are not all finite"),
        ("clean_conv2", lambda a: a * np.nan, "with --checkpoint best"),
        ("head_b", lambda _: np.zeros((2, 3, 5)), "head_b has the shape"),
        ("head_w", lambda a: a.astype(str), "is damaged"),
        ("support_labels", lambda a: a + 1, "support_labels has numbers outside 0 to 1"),
        ("map_images", lambda a: a - 1, "map_images has numbers outside"),
        ("query_images", lambda a: a[:, :, :0], "query_images has the shape"),
        ("settings", lambda _: np.array("[]"), "is damaged"),
        ("format", lambda _: np.zeros(2), "cannot be read"),
    ):
        np.savez(d / export_format.NAME, **arrays | {name: damage(arrays[name])})
        assert_refused(call("plot.py", *flags, d), words, str(d / export_format.NAME), "main.py --mode export")
    arrays.pop("head_b")
    np.savez(d / export_format.NAME, **arrays)
    assert_refused(call("plot.py", *flags, d), "it lacks head_b")
    (d / export_format.NAME).write_bytes(b"PK")
    assert_refused(call("plot.py", *flags, d), "cannot be read")
    assert not (d / "plot").exists()


def test_every_array_of_an_export_has_its_shape_checked():
    whole = fake_export()
    export_format.check(whole)
    for name, letters in export_format.shapes(whole).items():
        array = whole[name]
        for wrong in (array[None], np.repeat(array, 2, -1) if letters[-1] != "." else array[..., 0]):
            with pytest.raises(ValueError, match="has the shape"):
                export_format.check(whole | {name: wrong})
        with pytest.raises(ValueError, match=f"it lacks {name}"):
            export_format.check({k: v for k, v in whole.items() if k != name})


def test_damaged_numbers_of_a_run_are_one_sentence(tmp_path):
    d = write_run(tmp_path / "a")
    header = "iter,episodes,secs,lr,loss,acc,val_loss,val_acc,val_ci95\n"
    for content, words in (
        ("iter,secs\n1,2\n", "line 2: 'loss'"),
        (header, "it has no row yet"),
        (header + "0,0,1,1,1,1,,,\n50,4\n", "line 3: expected 9 cells"),
        (header + "0,0,1,1,1,1,,,\n50,4,1,1,1,1,,,,7\n", "line 3: expected 9 cells"),
        (header + "0,0,1,1,one,1,,,\n", "line 2: could not convert string to float: 'one'): correct or delete"),
        (header + "0" * 200000 + "\n", "field larger than"),
        (b"\xff\xfe", "cannot be read"),
    ):
        (d / "meta_train.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
        assert_refused(call("plot.py", "--savedir", d, "--figures", "curves"), words)
    test = json.loads((d / "meta_test.json").read_text())
    for change, words in (
        ({"accuracies": []}, "its accuracies are not a list of numbers"),
        ({"accuracies": [50.0, float("nan")]}, "its accuracies are not a list of numbers"),
        ({"accuracies": [[1.0]]}, "its accuracies are not a list of numbers"),
        ({"accuracy": "high"}, "cannot be read"),
        ({"settings": {}}, "its settings lack query"),
        ({"settings": {"way": 5, "query": 0}}, "cannot be read"),
        ({"settings": {"way": [5], "query": 1}}, "cannot be read"),
        ({"settings": 3}, "cannot be read"),
    ):
        (d / "meta_test.json").write_text(json.dumps(test | change))
        assert_refused(call("plot.py", "--savedir", d, "--figures", "histogram"), words)
    for number, (settings, words) in enumerate((
        ({"layers": ["logits"]}, "its layers are logits"),
        ({"layers": ["conv4", "dense"]}, "its layers are conv4 dense"),
    )):  # fmt: skip
        for kind in ("watched", "tested"):
            broken = write_collapse(tmp_path / f"{kind}{number}", kind, **settings)
            assert_refused(call("plot.py", "--savedir", broken, "--figures", "collapse"), words)
    path = broken.with_name("watched1") / "collapse.csv"
    path.write_text("iter,set,step,layer,tasks,nc1\n0,query,0,conv4,2,1\n")
    assert_refused(call("plot.py", "--savedir", path.parent, "--figures", "collapse"), "it lacks nc2_angle_means")
    assert not (d / "plot").exists()


def test_odd_but_whole_numbers_of_a_run_are_drawn(tmp_path):
    """A diverged run, an older version's test, a learner and layers of another program, settings of other types."""
    d = write_run(tmp_path / "a")
    config = {"model": ["not", "a name"], "way": "5", "query": 15, "perturbation": 3, "shot": {"of": None}}
    (d / "config.json").write_text(json.dumps(config))
    lines = (d / "meta_train.csv").read_text().splitlines()
    lines[3:] = [re.sub(r"^(\d+,\d+,[^,]+,[^,]+),[^,]+", r"\1,inf" if i % 2 else r"\1,nan", line) for i, line in
                 enumerate(lines[3:])]  # fmt: skip
    (d / "meta_train.csv").write_text("\n".join(lines) + "\n")
    test = json.loads((d / "meta_test.json").read_text())
    test.pop("settings")
    (d / "meta_test.json").write_text(json.dumps(test))
    rows = collapse_rows("ci95", layers=("stem", "head", "logits"), colour=1)
    (d / "collapse.json").write_text(json.dumps({"rows": rows}))
    draw("--savedir", d, "--figures", "curves", "histogram", "collapse", *QUICK)
    text = (d / "plot/index.html").read_text()
    assert "<h1>[&#x27;not&#x27;, &#x27;a name&#x27;], 3</h1>" in text
    assert {"curves.png", "histogram.png", "collapse_layers.png"} <= {path.name for path in (d / "plot").iterdir()}
