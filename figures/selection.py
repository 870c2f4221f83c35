"""Which tasks, classes, layers and channels of the exports are drawn."""

from dataclasses import dataclass, replace

import numpy as np

from errors import UserError
from figures.run import Run
from studies import export_format


@dataclass(frozen=True)
class Selection:
    """What is drawn of every export; tasks, layers and channels that are empty leave the choice to the program."""

    tasks: tuple[int, ...] = ()
    classes: tuple[int, int] = (0, 1)  # the two that the boundary lies between, numbers in a task
    seed: int = 0  # of the t-SNE
    layers: tuple[str, ...] = ()
    channels: tuple[int, ...] = ()

    def complete(self, runs: list[Run]) -> "Selection":
        """With tasks, by default the first three that all runs' exports hold. UserError: what an export does not hold.

        Layers and channels stay each run's own.
        """
        tasks = self.tasks or tuple(range(min(3, *(len(run.export["classes"]) for run in runs))))
        for run in runs:
            self._refuse_missing(run, tasks)
        return replace(self, tasks=tasks)

    def _refuse_missing(self, run: Run, tasks: tuple[int, ...]) -> None:
        """UserError where tasks, classes, layers or channels are not all in this run's export."""
        count, way = run.export["classes"].shape
        if max(tasks) >= count:
            raise UserError(
                f"--tasks {max(tasks)}: {run.savedir / export_format.NAME} holds the tasks 0 to {count - 1}; "
                f"export more with --export_tasks"
            )
        if max(self.classes) >= way:
            raise UserError(f"--classes {' '.join(map(str, self.classes))}: {way} are exported, 0 to {way - 1}")
        layers = pick_layers(run.export, self.layers)
        if layers and run.perturbs:
            pick_channels(run.export, layers[0], self.channels)


def pick_layers(export: dict, wanted: tuple[str, ...]) -> list[str]:
    """The layers wanted, or by default the first two; none of an export without maps.

    UserError: a layer that was not exported.
    """
    layers = export_format.layers(export)
    if not wanted or not layers:
        return layers[:2]
    if missing := [layer for layer in wanted if layer not in layers]:
        raise UserError(f"--layers {missing[0]} was not exported: choose from {' '.join(layers)}")
    return list(wanted)


def pick_channels(export: dict, layer: str, wanted: tuple[int, ...]) -> list[int]:
    """Places in export's map_channels: those of the channels wanted, or of the 3 whose maps vary most.

    UserError: a channel that was not exported.
    """
    channels = export["map_channels"].tolist()
    if not wanted:
        maps = export[f"perturbed_{layer}"].astype(np.float32)  # [K,M,I,h,w,J]
        variance = maps.var(1).mean((0, 1, 2, 3))
        return sorted(np.argsort(-variance, kind="stable")[:3].tolist())
    if missing := sorted(set(wanted) - set(channels)):
        raise UserError(f"--channels {missing[0]} was not exported: choose from {' '.join(map(str, channels))}")
    return [channels.index(channel) for channel in wanted]
