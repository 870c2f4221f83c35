"""The layout of export.npz, its version, and its reader. Needs no TensorFlow.

numpy.load(allow_pickle=False) reads it. Sizes: K tasks, P = n_steps + 1 snapshots (before the first inner step, and
after each; 1 for a learner without inner steps), N classes per task, S = N * shot support and Q = N * query rows
ordered by class, M perturbed copies (0 for a learner without noise), D features, H W C an input, h w a layer's map, I
images and J channels of the exported maps. Floats are float32 unless noted; accuracies are 0 to 1, losses nats.

    format                int64, 1
    settings              str, JSON: the run's and the export's settings, the checkpoint and its iteration
    fingerprints          [K] str, SHA-256 of a task's classes and images: equal if two exports share a task
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
                          last snapshot; LAYER is conv1 to conv4, or the name of another layer that has a map
    perturbed_LAYER       [K,M,I,h,w,J] float16, the same with noise
    noise_LAYER           [K,M,I,h,w,J] float16, the factor of the convolution, softplus(a), or of the map, a mask; M is
                          0 if the learner multiplies by nothing
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from errors import UserError, user_error
from files import parse_json
from training.test_results import DAMAGE

FORMAT = 1
NAME = "export.npz"
SHAPES = {
    "fingerprints": "K", "classes": "KN", "images": "KN.", "support_labels": "S", "query_labels": "Q",
    "support_images": "KSHWC", "query_images": "KQHWC", "support_features": "KPSD", "query_features": "KPQD",
    "perturbed_features": "KPMSD", "head_w": "KPDN", "head_b": "KPN", "support_predictions": "KPS",
    "query_predictions": "KPQ", "support_loss": "KP", "query_loss": "KP", "support_accuracy": "KP",
    "query_accuracy": "KP", "map_images": "I", "map_channels": "J",
}  # fmt: skip
MAPS = {"clean": "KI..J", "perturbed": "KMI..J", "noise": "K.I..J"}  # for each LAYER: clean_LAYER, ...
# Arrays of indices, and the letter of the size that limits them.
INDICES = {"support_labels": "N", "query_labels": "N", "map_images": "S"}


def layers(arrays: Iterable[str]) -> list[str]:
    """Return the layers that have maps among arrays with these names, in order."""
    names = (name.partition("_") for name in arrays if name not in SHAPES)
    return list(dict.fromkeys(layer for kind, _, layer in names if kind in MAPS))


def shapes(arrays: Iterable[str]) -> dict[str, str]:
    """Return every array of an export that has maps of these layers: by name, the letters of its shape."""
    return SHAPES | {f"{kind}_{layer}": letters for layer in layers(arrays) for kind, letters in MAPS.items()}


def check(arrays: dict[str, np.ndarray]) -> None:
    """Raise ValueError if an array does not have its shape, or indices are out of range. A letter stands for the same
    size everywhere, and only M may be 0; a dot stands for any size."""
    sizes = {}
    for name, letters in shapes(arrays).items():
        if name not in arrays:
            raise ValueError(f"it lacks {name}")
        shape = arrays[name].shape
        if len(shape) != len(letters):
            raise ValueError(f"{name} has the shape {shape}")
        for letter, size in zip(letters, shape, strict=True):
            if letter != "." and sizes.setdefault(letter, size) != size:
                raise ValueError(f"{name} has the shape {shape}, and another array has {letter} = {sizes[letter]}")
            if not size and letter not in "M.":
                raise ValueError(f"{name} has the shape {shape}")
    for name, letter in INDICES.items():
        if not np.isin(arrays[name], np.arange(sizes[letter])).all():
            raise ValueError(f"{name} has numbers outside 0 to {sizes[letter] - 1}")


def refuse_infinite(arrays: dict[str, np.ndarray], path: Path, remedy: str) -> None:
    """Raise UserError if an array that figures show has an infinite value or a NaN."""
    for name in shapes(arrays):
        if name in SHAPES and not name.endswith("_features") and not name.startswith("head_"):
            continue
        finite = np.isfinite(arrays[name]).reshape(len(arrays[name]), -1).all(1)
        if not finite.all():
            raise UserError(
                f"{path}: {name} of task {finite.argmin()} are not all finite, so the learner diverged on it: {remedy} "
                f"again with --checkpoint best, or train again with a lower --inner_lr or --meta_lr"
            )


def read(savedir: Path) -> dict:
    """Read savedir's export: arrays by name, and `settings` as a dict. Raise UserError if there is none, or if it has
    another version, is damaged, or has values that `refuse_infinite` refuses."""
    path = savedir / NAME
    remedy = f"run main.py --mode export --savedir {savedir}"
    if not path.is_file():
        raise UserError(f"there is no {path}: {remedy} first")
    # zipfile, numpy and the decompressors raise a dozen kinds of exceptions at a damaged file
    with user_error(f"{path} cannot be read", f"{remedy} again", Exception), np.load(path, allow_pickle=False) as file:
        if "format" not in file.files:
            raise ValueError("it has no version")
        version = int(file["format"])
        if version == FORMAT:
            arrays = {name: file[name] for name in file.files}
    if version != FORMAT:
        raise UserError(f"{path} has version {version}, and this program reads version {FORMAT}: {remedy} again")
    with user_error(f"{path} is damaged", f"{remedy} again", *DAMAGE):
        check(arrays)
        arrays["settings"] = parse_json(str(arrays["settings"]))
        stochastic = arrays["settings"]["stochastic"]
        refuse_infinite(arrays, path, remedy)
    if stochastic and not arrays["perturbed_features"].shape[2]:
        raise UserError(f"{path} holds no perturbed copies, but its learner has noise: {remedy} --export_samples 10")
    return arrays
