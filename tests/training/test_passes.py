"""What bench.py --profile makes of the profiler's events: hand-made events, and the names in the learners' graphs."""

import sys
from collections import Counter

import pytest
import tensorflow as tf
from tensorflow.tsl.profiler.protobuf import xplane_pb2

import bench
import learners
from errors import UserError
from training import passes
from training.passes import XLA, Event

BODY = "map/while/body/_1/map/while"
INNER, OUTER = f"{BODY}/gradients_1/map/while", f"{BODY}/gradients_2/map/while"


def test_an_operation_has_the_time_without_the_operations_inside_it():
    """On its own thread, however deep, and also if the clock says that they end after it."""
    events = [
        Event(1, 0, 10, "a", "While"),
        Event(1, 1, 5, "b", "Call"),
        Event(1, 2, 1, "c", "Mul"),
        Event(1, 4, 1, "d", "Mul"),
        Event(1, 9, 3, "e", "Mul"),
        Event(1, 12, 1, "f", "Mul"),
        Event(2, 0, 10, "g", "Mul"),
    ]
    own = {event.op: ms for event, ms in passes.own_times(reversed(events))}
    assert own == {"a": 10 - 5 - 1, "b": 3, "c": 1, "d": 1, "e": 3, "f": 1, "g": 10}


def test_xla_kernels_are_parts_of_the_operation_that_calls_them():
    """Around them on their thread; or, on another thread, the one that has begun last of those that are open."""
    events = [
        Event(1, 0, 10, "support/conv1/Call", "PartitionedCall"),
        Event(1, 2, 3, "", XLA),
        Event(1, 3, 1, "", XLA),
        Event(3, 5, 2, "query/conv2/Call", "XlaLaunch"),
        Event(2, 1, 2, "", XLA),
        Event(2, 1, 1, "", XLA),
        Event(2, 6, 4, "", XLA),
        Event(2, 20, 7, "", XLA),
    ]
    found = passes.summary(events)
    layers = {where: part["layers"] for where, part in found["passes"].items()}
    assert layers == {"support forward": {"conv1": 12}, "query forward": {"conv2": 6}, "other": {"other": 7}}
    assert {row["type"]: row["calls"] for row in found["kernels"]} == {"PartitionedCall": 1, "XlaLaunch": 1, XLA: 3}


def test_the_name_of_an_operation_says_its_pass_and_layer():
    """The meta-gradient's scope is known by the query set's pass, or by a gradient, that is differentiated in it. A
    loop in a gradient makes no other gradient of it, nor does a layer that computes its own; and an attack's loop has
    scopes of its own."""
    names = {
        f"{BODY}/support/conv1_1/Conv2D": ("support forward", "conv1"),
        f"{BODY}/support_1/head/MatMul": ("support forward", "head"),
        f"{BODY}/query/conv2/noise_1/stateless_random_uniform/Cast": ("query forward", "conv2"),
        f"{INNER}/support/conv4_1/IdentityN_grad/Conv2D": ("support backward", "conv4"),
        f"{OUTER}/query/conv3/IdentityN_grad/Conv2D": ("query backward", "conv3"),
        f"{OUTER}/support/conv4_1/IdentityN_grad/Conv2D": ("meta-gradient through support forward", "conv4"),
        f"{OUTER}/gradients_1/map/while/support/conv2/IdentityN_grad/IdentityN_1_grad/mul": (
            "meta-gradient through support backward",
            "conv2",
        ),
        f"{INNER}/while_grad/body/_9/gradients_1/support/conv1/mul": ("support backward", "conv1"),
        f"{INNER}/support/conv1/IdentityN_grad/gradients/support/conv1/mul_grad": ("support backward", "conv1"),
        f"{BODY}/while/body/_7/while/gradients_1/query/conv1/mul_grad/Mul": ("query backward", "conv1"),
        f"{BODY}/gradients_2/AddN_3": ("other", "other"),
        "Sum": ("other", "other"),
    }
    outer = passes.outer_scopes(names)
    assert f"{BODY}/gradients_2" in outer and f"{BODY}/gradients_1" not in outer
    assert {name: passes.place_of(name, outer) for name in names} == names
    assert passes.outer_scopes(name for name in names if "query" not in name) == {f"{BODY}/gradients_2"}
    of_a_test = [name for name in names if "gradients_2" not in name and "query/conv1" not in name]
    assert passes.outer_scopes(of_a_test) == set(), "a test has no meta-gradient"


def test_a_kernel_is_of_the_kind_of_its_type_but_for_noise():
    kinds = {
        ("convolution", "a/Conv2D"): ("Conv2D", "_MklNativeFusedConv2D", "Conv2DBackpropFilter"),
        ("matrix product", "a/MatMul"): ("MatMul", "_MklBatchMatMulV2", "_FusedMatMul"),
        ("element-wise", "a/b"): ("Mul", "_MklAddV2", "_UnaryOpsComposition", "ReluGrad"),
        ("random numbers", "a/b"): ("StatelessRandomUniformFullIntV2",),
        ("random numbers", "a/noise_1/b"): ("Cos", "Mul", "PartitionedCall"),
        ("XLA program", "a/b"): ("PartitionedCall", "XlaLaunch", XLA),
        ("other", "a/noisemap/b"): ("Mean", "ConcatV2", "While", "Multinomial"),
    }
    for (kind, op), types in kinds.items():
        for type in types:
            assert passes.kind_of(op, type) == kind, (op, type)


def test_the_parts_have_the_sum_of_all():
    ops = [
        ("support/conv1/a", "Mul", 4),
        ("support/conv1/b", "Conv2D", 2.5),
        ("query/conv2/c", "Mul", 1),
        ("d", "Sum", 8),
    ]
    events = [Event(1, 10 * place, ms, op, type) for place, (op, type, ms) in enumerate(ops)]
    found = passes.summary(events, kernels=2)
    assert found == {
        "core_ms": 15.5,
        "kinds": {"convolution": 2.5, "element-wise": 5, "other": 8},
        "layers": {"conv1": 6.5, "conv2": 1, "other": 8},
        "passes": {
            "support forward": {
                "core_ms": 6.5,
                "kinds": {"convolution": 2.5, "element-wise": 4},
                "layers": {"conv1": 6.5},
            },
            "query forward": {"core_ms": 1, "kinds": {"element-wise": 1}, "layers": {"conv2": 1}},
            "other": {"core_ms": 8, "kinds": {"other": 8}, "layers": {"other": 8}},
        },
        "kernels": [{"type": "Sum", "calls": 1, "core_ms": 8}, {"type": "Mul", "calls": 2, "core_ms": 5}],
    }
    lines = passes.table(found).splitlines()
    assert lines[1].split() == ["support", "forward", "6.5", "2.5", "0.0", "4.0", "0.0", "0.0", "0.0"]
    assert lines[-1].split() == ["all", "15.5", "6.5", "1.0", "0.0", "0.0", "0.0", "8.0"]
    assert len({len(line) for line in lines[:5]}) == 1


def test_the_scheduler_and_python_have_no_kernels():
    """Kernels: what is named `operation:Type`, an asynchronous kernel by its attributes, and those of XLA."""
    plane = xplane_pb2.XPlane(name="/host:CPU")
    titles = ["a/mul_1:Mul", "ExecutorState::Process", "EagerLocalExecute: _EagerConst", "function", "fusion.1"]
    titles.append("ExecutorState::ProcessAsync::Start")
    for number, title in enumerate(titles):
        plane.event_metadata[number].name = title
    for number, name in enumerate(["name", "kernel_type", "hlo_op", "a/Call"]):
        plane.stat_metadata[number].name = name
    line = plane.lines.add(id=7, timestamp_ns=5_000_000)
    for number in range(len(titles)):
        event = line.events.add(metadata_id=number, offset_ps=number * 10**9, duration_ps=10**8)
        if title := {4: "fusion.1"}.get(number):
            event.stats.add(metadata_id=2, str_value=title)
        if number == 5:
            event.stats.add(metadata_id=0, ref_value=3)
            event.stats.add(metadata_id=1, str_value="PartitionedCall")
    assert list(passes.read_plane(plane)) == [
        Event(7, 5, 0.1, "a/mul_1", "Mul"),
        Event(7, 9, 0.1, "", XLA),
        Event(7, 10, 0.1, "a/Call", "PartitionedCall"),
    ]


def test_a_tensorflow_without_the_reader_is_refused_in_a_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow.tsl.profiler.protobuf", None)
    with pytest.raises(UserError, match="cannot read its profiler's file"):
        passes.record(lambda: pytest.fail("the step ran"))


ONE_PASS = {"support forward", "query forward", "query backward", "meta-gradient through support forward"}
INNER_LOOP = {"support forward", "support backward"}


@pytest.mark.parametrize(
    ("model", "wanted"),
    [
        ("metadrop", ONE_PASS | INNER_LOOP | {"meta-gradient through support backward"}),
        ("protonet", ONE_PASS),
        ("metanet_original", ONE_PASS),
        ("reptile", INNER_LOOP),
    ],
)
def test_the_operations_of_every_learner_have_places(model, wanted):
    """Its convolutions have a pass and a layer, and what draws noise is known for it."""
    steps = {"n_steps": 1} if "support backward" in wanted else {}
    learner = learners.make(model, image_shape=(16, 16, 8), channels=8, way=2, **steps)
    graph = bench.traced_task(learner, 1, 1, None).graph
    operations = [op for op in graph.get_operations() if op.type != "Const"]
    outer = passes.outer_scopes(op.name for op in operations)
    places = Counter(passes.place_of(op.name, outer) for op in operations if op.type.startswith("Conv2D"))
    assert {where for where, _ in places} == wanted
    assert {layer for _, layer in places} == {"conv1", "conv2", "conv3", "conv4"}
    kinds = {passes.kind_of(op.name, op.type) for op in operations if op.type in ("Cos", "Sin")}
    assert kinds == ({"random numbers"} if model in ("metadrop", "reptile") else set())


@tf.function(autograph=False)
def product(x):
    with tf.name_scope("support/conv1"):
        return tf.matmul(x, x)


def test_the_profiler_finds_an_operation_in_its_pass():
    x = tf.ones([64, 64])
    product(x)
    events, ms = passes.record(lambda: product(x).numpy())
    [(event, own)] = [pair for pair in passes.own_times(events) if "MatMul" in pair[0].type]
    assert passes.place_of(event.op, set()) == ("support forward", "conv1") and 0 < own < ms
