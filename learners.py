"""The table of learners, and of what perturbs them."""

from typing import NamedTuple

from metanet import EmbeddingMetaNetwork, OriginalMetaNetwork
from model import MAML
from perturbations import PERTURBATIONS


class Entry(NamedTuple):
    learner: type
    perturbations: tuple[str, ...]  # that it takes, its default first


LEARNERS = {
    "maml": Entry(MAML, ("none", "mask", "noise")),
    "metadrop": Entry(MAML, ("noise",)),
    "metanet_embedding": Entry(EmbeddingMetaNetwork, ("none", "mask")),
    "metanet_original": Entry(OriginalMetaNetwork, ("none", "mask")),
}
SPECIAL = {
    name for made in (*(e.learner for e in LEARNERS.values()), *PERTURBATIONS.values()) for name in made.settings
}


def make(name: str, perturbation: str | None = None, **settings):
    """The learner `name` with this perturbation (None: its own). ValueError at a combination that there is not.

    settings: the constructor's; those of the perturbation among them (its class's `settings`) go to it.
    """
    made, allowed = LEARNERS[name]
    perturbation = perturbation or allowed[0]
    if perturbation not in allowed:
        raise ValueError(f"{name} cannot have the perturbation {perturbation!r}: it takes {' or '.join(allowed)}")
    kind = PERTURBATIONS[perturbation]
    own = {key: settings.pop(key) for key in kind.settings if key in settings}
    return made(perturbation=kind(**own), **settings)


def settings_of(name: str, perturbation: str | None = None) -> set[str]:
    """Those of SPECIAL that this learner with this perturbation takes."""
    made, allowed = LEARNERS[name]
    return {*made.settings, *PERTURBATIONS[perturbation or allowed[0]].settings}
