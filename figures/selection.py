"""Choose which tasks, classes, layers and channels of the exports are drawn."""

from dataclasses import dataclass, replace

import numpy as np

from errors import UserError
from figures.run import Run
from studies import export_format


@dataclass(frozen=True)
class Selection:
    """The parts of every export that are drawn. Empty tasks, layers or channels stand for a default."""

    tasks: tuple[int, ...] = ()
    classes: tuple[int, int] = (0, 1)  # the two on both sides of the boundary, as numbers in a task
    seed: int = 0  # of the t-SNE
    layers: tuple[str, ...] = ()
    channels: tuple[int, ...] = ()

    def complete(self, runs: list[Run]) -> "Selection":
        """Return the selection with tasks filled in: by default the first three that all exports hold. Layers and
        channels are chosen for each run later. Raise UserError if an export lacks something that is selected."""
        tasks = self.tasks or tuple(range(min(3, *(len(run.export["classes"]) for run in runs))))
        for run in runs:
            count, way = run.export["classes"].shape
            if max(tasks) >= count:
                raise UserError(
                    f"--tasks {max(tasks)}: {run.savedir / export_format.NAME} holds the tasks 0 to {count - 1}; "
                    f"export more with --export_tasks"
                )
            if max(self.classes) >= way:
                chosen = " ".join(map(str, self.classes))
                raise UserError(f"--classes {chosen}: the exported classes are 0 to {way - 1}")
            layers = pick_layers(run.export, self.layers)
            if layers and run.perturbs:
                pick_channels(run.export, layers[0], self.channels)
        return replace(self, tasks=tasks)


def pick_layers(export: dict, wanted: tuple[str, ...]) -> list[str]:
    """Return the wanted layers, by default the first two; none if the export has no maps.

    Raise UserError if a layer was not exported.
    """
    layers = export_format.layers(export)
    if not wanted or not layers:
        return layers[:2]
    if missing := [layer for layer in wanted if layer not in layers]:
        raise UserError(f"--layers {missing[0]} was not exported: choose from {' '.join(layers)}")
    return list(wanted)


def pick_channels(export: dict, layer: str, wanted: tuple[int, ...]) -> list[int]:
    """Return the wanted channels, by default the 3 with the most varied maps, as indices into map_channels.

    Raise UserError if a channel was not exported.
    """
    channels = export["map_channels"].tolist()
    if not wanted:
        maps = export[f"perturbed_{layer}"].astype(np.float32)  # [K,M,I,h,w,J]
        variance = maps.var(1).mean((0, 1, 2, 3))
        return sorted(np.argsort(-variance, kind="stable")[:3].tolist())
    if missing := sorted(set(wanted) - set(channels)):
        raise UserError(f"--channels {missing[0]} was not exported: choose from {' '.join(map(str, channels))}")
    return [channels.index(channel) for channel in wanted]
