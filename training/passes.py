"""The time of one step by pass, layer and kind of kernel, from the events of TensorFlow's profiler.

The names of a step's operations say where they belong (perturbations/draws.py, Draw.scope). `support/conv1/...` is of a
forward pass. `gradients_2/support/conv1/...` is of its gradient: the meta-gradient if `gradients_2` is a scope of it,
else the inner gradient. `gradients_5/gradients_2/support/conv1/...` is of the inner gradient's gradient.
"""

from __future__ import annotations

import itertools
import re
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from errors import UserError
from lazy import tf
from parameters import BLOCKS

PASSES = (
    "support forward",
    "support backward",  # the inner gradient
    "query forward",
    "query backward",  # the meta-gradient's way back begins here, and goes on through the inner steps
    "meta-gradient through support backward",
    "meta-gradient through support forward",
    "other",
)
LAYERS = *(f"conv{block}" for block in range(1, BLOCKS + 1)), "head", "other"
KINDS = "convolution", "matrix product", "element-wise", "random numbers", "XLA program", "other"
ELEMENTWISE = re.compile(
    "(_Mkl)?(Native)?(Abs|Add|AddN|AddV2|BiasAdd|BitwiseOr|Cast|Cos|Equal|Exp|Greater|GreaterEqual|IsFinite|LeftShift|"
    "Less|LessEqual|Log|LogicalAnd|Maximum|Minimum|Mul|Neg|Pow|RealDiv|Reciprocal|Relu|ReluGrad|Rsqrt|RsqrtGrad|Select|"
    "SelectV2|Sigmoid|SigmoidGrad|Sign|Sin|Sqrt|Square|SquaredDifference|Sub|Tanh|TanhGrad|_UnaryOpsComposition)"
)
XLA = "XLA kernel"  # the type of a kernel of a program that XLA has compiled; its own name says nothing here
CALL = re.compile("Call|Xla")  # in the types of operations that call such a program
PLACE = re.compile(r"(?:^|/)(support|query)(?:_\d+)?/(\w+?)(?:_\d+)?/")
GRADIENTS = re.compile(r"(?:^|/)(gradients(?:_\d+)?)(?=/)")
NOISE = re.compile(r"(?:^|/)noise(?:_\d+)?/")


class Event(NamedTuple):
    """A kernel that ran on a thread: start and duration in ms, and the name and the type of its operation."""

    thread: int
    start: float
    ms: float
    op: str
    type: str

    @property
    def end(self) -> float:
        return self.start + self.ms


def own_times(events: Iterable[Event]) -> list[tuple[Event, float]]:
    """Return each operation with its self time in ms: without that of the operations inside it, on its thread.

    An XLA kernel is a part of the operation around it. On another thread, where none is around it, it is a kernel of
    the call that was then open.
    """
    events, results = sorted(events, key=lambda event: (event.thread, event.start, -event.ms)), []
    calls = [event for event in events if CALL.search(event.type) and event.type != XLA]
    for _, of_thread in itertools.groupby(events, key=lambda event: event.thread):
        around: list[list] = []  # [event, ms of its own] of the operations that have begun
        for event in of_thread:
            around = [pair for pair in around if pair[0].end > event.start]
            if event.type == XLA:
                if around:
                    continue
                open_calls = [call for call in calls if call.start <= event.start < call.end]
                event = event._replace(op=max(open_calls, key=lambda call: call.start, default=event).op)
            if around:
                around[-1][1] -= min(event.end, around[-1][0].end) - event.start
            around.append([event, event.ms])
            results.append(around[-1])
    return [tuple(pair) for pair in results]


def gradients_of(op: str) -> tuple[str, int]:
    """Return the path of the first `gradients` scope in an operation's name ("" if there is none), and the order of
    the derivative: the number of different `gradients` scopes before the layer's name. (A loop repeats its scopes, and
    those after the layer's name are of a layer that computes its gradient by tf.gradients.)"""
    place = PLACE.search(op)
    scopes = op[: place.start() + 1] if place else op
    first = GRADIENTS.search(scopes)
    return (op[: first.end()], len(set(GRADIENTS.findall(scopes)))) if first else ("", 0)


def outer_scopes(ops: Iterable[str]) -> set[str]:
    """Return the paths of the meta-gradient's scopes: the query set's pass or a gradient is differentiated in them. The
    other `gradients` scopes are of inner steps."""
    places = ((*gradients_of(op), PLACE.search(op)) for op in ops)
    return {path for path, depth, place in places if depth > 1 or (depth and place and place[1] == "query")}


def place_of(op: str, outer: set[str]) -> tuple[str, str]:
    """Return the pass and the layer of an operation. outer: `outer_scopes`."""
    place, (path, depth) = PLACE.search(op), gradients_of(op)
    if not place:
        return "other", "other"
    images, layer = place[1], place[2] if place[2] in LAYERS else "other"
    if not depth:
        return f"{images} forward", layer
    if images == "query" or path not in outer:
        return f"{images} backward", layer
    return f"meta-gradient through support {'backward' if depth > 1 else 'forward'}", layer


def kind_of(op: str, type: str) -> str:
    """Return what a kernel does, one of KINDS. Reductions and copies (a concatenation, for example) are `other`. What
    XLA has compiled is not told apart."""
    if NOISE.search(op) or "Random" in type:
        return "random numbers"
    if type == XLA or CALL.search(type):
        return "XLA program"
    if "Conv2D" in type:
        return "convolution"
    if "MatMul" in type:
        return "matrix product"
    return "element-wise" if ELEMENTWISE.fullmatch(type) else "other"


def summary(events: Iterable[Event], kernels: int = 10) -> dict:
    """Return the ms of the kernels, summed over the threads: of all; by kind; by pass, and within it by layer and by
    kind; and of the types of kernels that take the most."""
    own = own_times(events)
    outer = outer_scopes(event.op for event, _ in own)
    layers, kinds, types, calls = Counter(), Counter(), Counter(), Counter()
    for event, ms in own:
        where, layer = place_of(event.op, outer)
        layers[where, layer] += ms
        kinds[where, kind_of(event.op, event.type)] += ms
        types[event.type] += ms
        calls[event.type] += 1

    def shares(counter: Counter, names: tuple[str, ...], of: tuple[str, ...]) -> dict[str, float]:
        sums = {name: round(sum(counter[where, name] for where in of), 2) for name in names}
        return {name: ms for name, ms in sums.items() if ms}

    def entry(*of: str) -> dict:
        return {
            "core_ms": round(sum(ms for (where, _), ms in kinds.items() if where in of), 2),
            "kinds": shares(kinds, KINDS, of),
            "layers": shares(layers, LAYERS, of),
        }

    present = [where for where in PASSES if any(where == one for one, _ in kinds)]
    most = [{"type": name, "calls": calls[name], "core_ms": round(ms, 2)} for name, ms in types.most_common(kernels)]
    return entry(*PASSES) | {"passes": {where: entry(where) for where in present}, "kernels": most}


def table(profile: dict) -> str:
    """Return what `summary` returned as two tables for people: the passes by kind, and by layer."""
    rows = profile["passes"] | {"all": profile}
    return "\n\n".join(block(rows, part, names) for part, names in (("kinds", KINDS), ("layers", LAYERS)))


def block(rows: dict[str, dict], part: str, names: tuple[str, ...]) -> str:
    """Return a table with a line for each row, by these names of a part."""
    first = max(map(len, rows))
    lines = [" " * first + "".join(f"  {name:>8}" for name in ("all", *names))]
    for name, row in rows.items():
        cells = {"all": row["core_ms"]} | {one: row[part].get(one, 0) for one in names}
        lines.append(f"{name:{first}}" + "".join(f"  {ms:{max(8, len(one))}.1f}" for one, ms in cells.items()))
    return "\n".join(lines)


def record(step: Callable[[], object]) -> tuple[list[Event], float]:
    """Run a step under TensorFlow's profiler. Return its kernels, and the ms that it took."""
    try:
        from tensorflow.tsl.profiler.protobuf import xplane_pb2
    except ImportError as fault:
        raise UserError("this version of TensorFlow cannot read its profiler's file: leave --profile out") from fault
    with tempfile.TemporaryDirectory() as folder:
        tf.profiler.experimental.start(folder)
        try:
            start = time.perf_counter()
            step()
            ms = 1e3 * (time.perf_counter() - start)
        finally:
            tf.profiler.experimental.stop()
        [file] = Path(folder).glob("**/*.xplane.pb")
        space = xplane_pb2.XSpace.FromString(file.read_bytes())
    planes = [plane for plane in space.planes if plane.name == "/host:CPU"]
    return [event for plane in planes for event in read_plane(plane)], ms


def read_plane(plane) -> Iterable[Event]:
    """Yield the kernels among the events of the profiler's record of a processor, an XPlane."""
    names = {number: metadata.name for number, metadata in plane.stat_metadata.items()}
    for line in plane.lines:
        for event in line.events:
            title = plane.event_metadata[event.metadata_id].name
            stats = {names[stat.metadata_id]: stat for stat in event.stats}
            op, _, type = title.rpartition(":")
            if "hlo_op" in stats:
                op, type = "", XLA
            elif "kernel_type" in stats:  # an asynchronous kernel
                op, type = (text_of(stats[name], names) for name in ("name", "kernel_type"))
            elif not re.fullmatch(r"[^\s:]+:\w+", title):  # the scheduler's, or Python's
                continue
            yield Event(line.id, (line.timestamp_ns + event.offset_ps / 1e3) / 1e6, event.duration_ps / 1e9, op, type)


def text_of(stat, names: dict[int, str]) -> str:
    """Return the text of an XStat, which has it or refers to it."""
    return stat.str_value or names.get(stat.ref_value, "")
