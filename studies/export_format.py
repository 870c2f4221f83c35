"""What export.npz holds: its layout, its version, and how it is read. Needs no TensorFlow.

Version 1, numpy.load(allow_pickle=False) reads it. Sizes: K tasks, P = n_steps + 1 snapshots (before the first
inner step, and after each; 1 for a learner that takes none), N classes a task, S = N * shot support and
Q = N * query rows ordered by class, M perturbed copies (0 for a learner without noise), D features, H W C the
input, h w a layer's map, I chosen support images, J chosen channels. Floats are float32 but where noted;
accuracies are 0 to 1, losses nats.

    format                int64, 1
    settings              str, JSON: the run's and the export's settings, the checkpoint and its iteration
    fingerprints          [K] str, SHA-256 of a task's classes and images: equal where two exports share a task
    classes               [K,N] int32, numbers in the test split; images [K,N,shot+query] int32, support first
    support_labels        [S] int32 (0 to N-1); query_labels [Q] int32
    support_images        [K,S,H,W,C] uint8, 0 to 255 over the range of the network's inputs; query_images [K,Q,H,W,C]
    support_features      [K,P,S,D], noise-free input of the last layer; query_features [K,P,Q,D]
    perturbed_features    [K,P,M,S,D], the same with noise; a copy has the same noise in every snapshot
    head_w, head_b        [K,P,D,N] and [K,P,N]: logits = features @ head_w + head_b
    support_predictions   [K,P,S] int32, of the noise-free features; query_predictions [K,P,Q]
    support_loss          [K,P], noise-free; query_loss, support_accuracy, query_accuracy likewise
    map_images            [I] int32, the rows of the support set that the maps show
    map_channels          [J] int32, their channels
    clean_LAYER           [K,I,h,w,J] float16, noise-free map after batch norm and relu, before pooling, at the
                          last snapshot; LAYER is conv1 to conv4, or what the learner's layers with maps are called
    perturbed_LAYER       [K,M,I,h,w,J] float16, the same with noise
    noise_LAYER           [K,M,I,h,w,J] float16, what was multiplied: softplus(a), by the convolution, or a mask, by
                          the map; M is 0 where the learner multiplies by nothing
"""

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from errors import UserError

FORMAT = 1
NAME = "export.npz"
SHAPES = {
    "fingerprints": "K", "classes": "KN", "images": "KN.", "support_labels": "S", "query_labels": "Q",
    "support_images": "KSHWC", "query_images": "KQHWC", "support_features": "KPSD", "query_features": "KPQD",
    "perturbed_features": "KPMSD", "head_w": "KPDN", "head_b": "KPN", "support_predictions": "KPS",
    "query_predictions": "KPQ", "support_loss": "KP", "query_loss": "KP", "support_accuracy": "KP",
    "query_accuracy": "KP", "map_images": "I", "map_channels": "J",
}  # fmt: skip
MAPS = {"clean": "KI..J", "perturbed": "KMI..J", "noise": "K.I..J"}  # of every layer that has maps: clean_LAYER, ...
# Numbers of something else, and the size that they are below.
INDICES = {"support_labels": "N", "query_labels": "N", "map_images": "S"}


def layers(arrays: Iterable[str]) -> list[str]:
    """The layers that these arrays (their names are enough) hold a map of, in their order."""
    names = (name.partition("_") for name in arrays if name not in SHAPES)
    return list(dict.fromkeys(layer for kind, _, layer in names if kind in MAPS))


def shapes(arrays: Iterable[str]) -> dict[str, str]:
    """The arrays that there have to be, where there are these, and the letters of their shapes."""
    return SHAPES | {f"{kind}_{layer}": letters for layer in layers(arrays) for kind, letters in MAPS.items()}


def check(arrays: dict[str, np.ndarray]) -> None:
    """ValueError where arrays are not of `shapes`, or numbers not in their range.

    A letter is one size, which only M may have 0 of, and a dot any size.
    """
    sizes = {}
    for name, letters in shapes(arrays).items():
        if name not in arrays:
            raise ValueError(f"it lacks {name}")
        shape = arrays[name].shape
        if len(shape) != len(letters):
            raise ValueError(f"{name} has the shape {shape}")
        for letter, size in zip(letters, shape, strict=True):
            if letter != "." and sizes.setdefault(letter, size) != size:
                raise ValueError(f"{name} has the shape {shape}, where another array has {letter} = {sizes[letter]}")
            if not size and letter not in "M.":
                raise ValueError(f"{name} has the shape {shape}")
    for name, letter in INDICES.items():
        if not np.isin(arrays[name], np.arange(sizes[letter])).all():
            raise ValueError(f"{name} holds other numbers than 0 to {sizes[letter] - 1}")


def refuse_infinite(arrays: dict[str, np.ndarray], path: Path, remedy: str) -> None:
    """UserError where something that is shown is infinite or no number."""
    figures_show = (name for name in shapes(arrays) if name.endswith("_features") or name.startswith("head_"))
    maps_show = (f"{kind}_{layer}" for layer in layers(arrays) for kind in MAPS)
    for name in (*figures_show, *maps_show):
        finite = np.isfinite(arrays[name]).reshape(len(arrays[name]), -1).all(1)
        if not finite.all():
            raise UserError(
                f"{path}: {name} of task {finite.argmin()} are not all finite, so the learner diverged on it: {remedy} "
                f"again with --checkpoint best, or train anew with a lower --inner_lr or --meta_lr"
            )


def read(savedir: Path) -> dict:
    """savedir's export: arrays by name, and its settings as a dict.

    UserError: there is none, it is not one of FORMAT, damaged, or holds what is not finite where figures show it.
    """
    path = savedir / NAME
    remedy = f"run main.py --mode export --savedir {savedir}"
    if not path.is_file():
        raise UserError(f"there is no {path}: {remedy} first")
    try:
        with np.load(path, allow_pickle=False) as file:
            version = int(file["format"])
            if version == FORMAT:
                arrays = {name: file[name] for name in file.files}
    except Exception as fault:  # zipfile, numpy and the decompressors have a dozen for a damaged file
        raise UserError(f"{path} cannot be read ({fault}): {remedy} again") from fault
    if version != FORMAT:
        raise UserError(f"{path} is of version {version}, and this program reads version {FORMAT}: {remedy} again")
    try:
        check(arrays)
        arrays["settings"] = json.loads(str(arrays["settings"]))
        stochastic = arrays["settings"]["stochastic"]
        refuse_infinite(arrays, path, remedy)
    except (ValueError, KeyError, TypeError, AttributeError) as fault:
        raise UserError(f"{path} is damaged ({fault}): {remedy} again") from fault
    if stochastic and not arrays["perturbed_features"].shape[2]:
        raise UserError(f"{path} holds no perturbed copies, though its learner perturbs: {remedy} --export_samples 10")
    return arrays
