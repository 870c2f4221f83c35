"""The table of all learners, and how one is made. A new learner is a class, and a line here."""

from __future__ import annotations

from dataclasses import fields
from typing import NamedTuple

from learners.baseline import Baseline, Nearest
from learners.metanet import EmbeddingMetaNetwork, OriginalMetaNetwork
from learners.metasgd import MetaSGD
from learners.protonet import ProtoNet
from learners.reptile import Reptile
from learners.ridge import Ridge
from model import MAML, Learner
from perturbations import PERTURBATIONS


class Entry(NamedTuple):
    """A line of the table of learners. title: its name in figures. perturbation: the only one that it takes (None: it
    takes any whose hooks it calls, and has none by default)."""

    learner: type[Learner]
    title: str
    perturbation: str | None = None


LEARNERS = {
    "maml": Entry(MAML, "MAML"),
    "metadrop": Entry(MAML, "Meta-dropout", "noise"),
    "metasgd": Entry(MetaSGD, "Meta-SGD"),
    "reptile": Entry(Reptile, "Reptile"),
    "protonet": Entry(ProtoNet, "Prototypical Network"),
    "ridge": Entry(Ridge, "Ridge regression (R2-D2)"),
    "metanet_embedding": Entry(EmbeddingMetaNetwork, "Meta Network (embedding)"),
    "metanet_original": Entry(OriginalMetaNetwork, "Meta Network (original)"),
    "baseline": Entry(Baseline, "Baseline"),
    "nearest": Entry(Nearest, "Nearest mean of the inputs"),
}


def classes_for(name: str, perturbation: str | None = None) -> tuple[type[Learner], type]:
    """Return the classes of the learner `name` and of its perturbation (None: the learner's default). Raise ValueError
    if there is no such learner, or if it cannot have this perturbation."""
    if name not in LEARNERS:
        raise ValueError(f"there is no learner {name!r}: choose {' or '.join(LEARNERS)}")
    entry = LEARNERS[name]
    if entry.perturbation:
        allowed = [entry.perturbation]
    else:
        allowed = [key for key, kind in PERTURBATIONS.items() if kind.hooks <= entry.learner.hooks]
    perturbation = perturbation or entry.perturbation or "none"
    if perturbation not in allowed:
        raise ValueError(f"{name} cannot have the perturbation {perturbation!r}: it takes {' or '.join(allowed)}")
    return entry.learner, PERTURBATIONS[perturbation]


def make(name: str, perturbation: str | None = None, **settings) -> Learner:
    """Make the learner `name` with this perturbation. Raise ValueError as `classes_for` does, and if a constructor
    refuses a value.

    settings: arguments of the learner's constructor, and settings of the learner and of the perturbation.
    """
    learner, kind = classes_for(name, perturbation)
    own = {field.name: settings.pop(field.name) for field in fields(kind.settings_class) if field.name in settings}
    return learner(perturbation=kind(**own), **settings)
