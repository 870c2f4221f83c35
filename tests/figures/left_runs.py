"""Write savedirs that plot.py can read, with random numbers."""

import csv
import json
from pathlib import Path

import numpy as np

from studies import collapse_measures, export_format

STEPS, QUERY, SIZE = 2, 3, 7
LAYERS = ("conv1", "conv2", "conv3", "conv4")


def fake_export(
    model="metadrop", shot=1, image_shape=(28, 28, 1), way=2, copies=4, tasks=2, images=2, seed=0, layers=LAYERS
) -> dict:
    """Return an export of random numbers in the layout of export_format.py, with separated classes."""
    rng = np.random.default_rng(seed)
    support, query, (height, width, _) = way * shot, way * QUERY, image_shape
    copies = copies if model == "metadrop" else 0
    arrays = {
        "fingerprints": np.array([f"{way} {shot} {task}" for task in range(tasks)]),
        "classes": rng.integers(0, 9, (tasks, way)),
        "images": rng.integers(0, 9, (tasks, way, shot + QUERY)),
        "support_labels": np.repeat(np.arange(way), shot),
        "query_labels": np.repeat(np.arange(way), QUERY),
        "head_w": rng.normal(size=(tasks, STEPS + 1, SIZE, way)),
        "head_b": rng.normal(size=(tasks, STEPS + 1, way)),
        "map_images": np.arange(images),
        "map_channels": np.array([0, 3, 5, 7]),
    }
    for role, rows in (("support", support), ("query", query)):
        centres = 3 * arrays["head_w"][..., arrays[f"{role}_labels"]].swapaxes(-1, -2)
        arrays[f"{role}_features"] = centres + rng.normal(size=(tasks, STEPS + 1, rows, SIZE))
        arrays[f"{role}_images"] = rng.integers(0, 256, (tasks, rows, *image_shape), dtype=np.uint8)
        arrays[f"{role}_predictions"] = rng.integers(0, way, (tasks, STEPS + 1, rows))
        for measure in ("loss", "accuracy"):
            arrays[f"{role}_{measure}"] = rng.random((tasks, STEPS + 1))
    moved = rng.normal(scale=0.3, size=(tasks, 1, copies, support, SIZE))
    arrays["perturbed_features"] = arrays["support_features"][:, :, None] + moved
    for block, layer in enumerate(layers):
        shape = (images, height >> block, width >> block, 4)
        arrays[f"clean_{layer}"] = rng.random((tasks, *shape)).astype(np.float16)
        for kind in ("perturbed", "noise"):
            arrays[f"{kind}_{layer}"] = rng.random((tasks, copies, *shape)).astype(np.float16)
    return arrays


def write_run(savedir: Path, model="metadrop", version=export_format.FORMAT, **settings) -> Path:
    """Write a savedir with all files that plot.py reads."""
    savedir.mkdir(parents=True)
    (savedir / "config.json").write_text(json.dumps({"model": model, "dataset": "<omniglot & more>", "way": 5}))
    arrays = fake_export(model, **settings)
    export_format.check(arrays)
    text = json.dumps({"stochastic": model == "metadrop", "iteration": 9})
    np.savez(savedir / export_format.NAME, format=np.int64(version), settings=np.array(text), **arrays)
    rng = np.random.default_rng(len(model))
    with open(savedir / "meta_train.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["iter", "episodes", "secs", "lr", "loss", "acc", "val_loss", "val_acc", "val_ci95"])
        for i in range(0, 500, 50):
            val = [1.1, 0.5 + i / 1e3, 0.02] if i % 100 == 0 else ["", "", ""]
            table.writerow([i, i * 4, i * 1.5, 1e-3, len(model) - i / 1e3, 0.5 + i / 1e3, *val])
    accuracies = 100 * rng.integers(60, 76, 40) / 75
    test = {"accuracy": accuracies.mean(), "interval95": 1.0, "accuracies": accuracies.tolist()}
    test |= {"episodes_sha256": "abc", "settings": {"way": 5, "query": 15}}
    (savedir / "meta_test.json").write_text(json.dumps(test))
    return savedir


def collapse_value(measure: str, part: str, step: int, layer: int, iteration: int = 0) -> float:
    """Return the value, 0 to 1, of a row of `collapse_rows`. layer: its number among the layers."""
    place = 0.1 + 0.01 * step + 0.1 * layer + 0.001 * iteration + 0.3 * (part == "query")
    return place + 1e-4 * collapse_measures.NAMES.index(measure)


def collapse_rows(spread: str, iterations=(None,), layers=("conv3", "conv4", "logits"), **extra) -> list[dict]:
    """Return rows as studies/collapse.py writes them, with a distinct value for every measure and place."""
    rows = []
    for i in iterations:
        for part in ("support", "query"):
            for step in range(STEPS + 1):
                for number, layer in enumerate(layers):
                    row = ({} if i is None else {"iter": i}) | {"set": part, "step": step, "layer": layer} | extra
                    for name in collapse_measures.NAMES:
                        value = collapse_value(name, part, step, number, i or 0)
                        row |= {name: value, f"{name}_{spread}": value / 10}
                    rows.append(row)
    return rows


def write_collapse(savedir: Path, kind: str, **settings) -> Path:
    """Write a savedir with nothing but neural collapse, of the kind `watched` or `tested`."""
    savedir.mkdir(parents=True)
    (savedir / "config.json").write_text(json.dumps({"model": savedir.name}))
    if kind == "watched":
        rows = collapse_rows("std", (0, 100), tasks=4, **settings)
        with open(savedir / "collapse.csv", "w", newline="") as file:
            table = csv.DictWriter(file, rows[0])
            table.writeheader()
            table.writerows(rows)
    else:
        (savedir / "collapse.json").write_text(json.dumps({"rows": collapse_rows("ci95", **settings)}))
    return savedir
