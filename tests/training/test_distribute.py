"""A metabatch shared by processes (TF_CONFIG, on loopback) and by devices: the same training as in one process."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

import files
from conftest import ROOT, SMALL, assert_refused, call, cli
from runs import checkpoint
from training import identity

TRAINING = ("--metabatch", 4, "--save_freq", 10, "--val_every", 10, "--n_val_tasks", 4)


def workers(savedir, data_dir, *flags, program=(ROOT / "main.py",)) -> list[subprocess.Popen]:
    """Two processes that share each metabatch."""
    sockets = [socket.create_server(("localhost", 0)) for _ in range(2)]
    addresses = [f"localhost:{s.getsockname()[1]}" for s in sockets]
    [s.close() for s in sockets]
    command = [sys.executable, *program, "--savedir", savedir, "--data_dir", data_dir, *SMALL, *TRAINING, *flags]
    started = []
    for index in range(2):
        config = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
        environment = os.environ | {"TF_CONFIG": json.dumps(config)}
        pipe = subprocess.PIPE
        started.append(subprocess.Popen([*map(str, command)], env=environment, stderr=pipe, stdout=pipe, text=True))
    return started


def finish(process) -> tuple[int, str]:
    _, stderr = process.communicate(timeout=120)
    assert "Traceback" not in stderr, stderr
    return process.returncode, stderr


def wait_for(path, processes):
    while not path.exists():
        assert all(p.poll() is None for p in processes), [finish(p) for p in processes]
        time.sleep(0.01)


@pytest.fixture(scope="module")
def one(data_dir, tmp_path_factory):
    """The same run in one process."""
    savedir = tmp_path_factory.mktemp("runs") / "one"
    done = cli("main.py", "--savedir", savedir, "--data_dir", data_dir, *SMALL, *TRAINING, "--n_train_iters", 20)
    assert done.returncode == 0, done.stderr
    return savedir


@pytest.mark.slow
def test_two_workers_killed_interrupted_and_resumed_train_as_one_process(one, data_dir, tmp_path):
    savedir = tmp_path / "two"
    pair = workers(savedir, data_dir, "--n_train_iters", 100000)
    wait_for(savedir / "checkpoints/last/ckpt-20.index", pair)
    pair[1].kill()
    code, stderr = finish(pair[0])
    assert code == 2 and "another worker ended" in stderr and "--resume" in stderr and "ckpt-" in stderr
    finish(pair[1])

    again = int(stderr.split("ckpt-")[1].split()[0]) // 10 * 10 + 20
    pair = workers(savedir, data_dir, "--n_train_iters", 100000, "--resume")
    wait_for(savedir / f"checkpoints/last/ckpt-{again}.index", pair)
    pair[1].send_signal(signal.SIGINT)  # to any of them: all stop after the same iteration
    (code, stderr), other = map(finish, pair)
    assert (code, other[0]) == (130, 130) and "interrupted and saved after iteration" in stderr
    iteration = int(stderr.split("saved after iteration ")[1].split(";")[0])

    done = cli("main.py", "--savedir", one, "--resume", "--n_train_iters", iteration)
    assert done.returncode == 0, done.stderr
    a, b = checkpoint(one), checkpoint(savedir)
    for name in a:
        if name.startswith(("params", "adam")):  # Adam's slots hold the gradients
            np.testing.assert_array_equal(a[name], b[name], err_msg=name)


@pytest.mark.slow
def test_a_metabatch_that_cannot_be_shared_is_refused(data_dir, tmp_path):
    pair = workers(tmp_path / "a", data_dir, "--metabatch", 3)
    for code, stderr in map(finish, pair):
        assert code == 2 and "--metabatch 3 cannot be shared evenly by 2 devices" in stderr
    assert not (tmp_path / "a").exists()


@pytest.mark.slow
def test_a_worker_0_that_refuses_does_not_leave_the_other_waiting(one, data_dir, tmp_path):
    """All of them look at the savedir; where only worker 0 can know, the other hears that it is gone."""
    for code, stderr in map(finish, workers(one, data_dir)):
        assert code == 2 and f"{one} holds a run already: add --resume" in stderr
    with files.locked(tmp_path / "a/meta_train.lock", ""):
        (code, stderr), (other, words) = map(finish, workers(tmp_path / "a", data_dir))
    assert code == 2 and f"process {os.getpid()} on " in stderr and "is training in" in stderr
    assert other == 2 and "error: another worker did not start" in words and "see its messages" in words


@pytest.mark.slow
def test_a_worker_does_not_wait_for_ever(data_dir, tmp_path):
    """For one that never comes: this is worker 0 alone."""
    impatient = "import main, sys; from training import devices; devices.STARTUP_TIMEOUT = 2; main.run(main.main)"
    pair = workers(tmp_path / "a", data_dir, program=("-c", impatient))
    pair[1].kill()
    pair[1].communicate()
    code, stderr = finish(pair[0])
    assert code == 2 and "error: worker 0: the others did not start within 2 s; see their messages" in stderr
    assert not (tmp_path / "a").exists()


def test_a_tf_config_that_cannot_be_used_is_refused(data_dir, tmp_path, monkeypatch):
    for text in ("{", "[]", '{"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 2}}',
                 '{"cluster": {"worker": ["a", "b"]}, "task": {"type": "worker", "index": 0}}',
                 '{"cluster": {"worker": [1, 2]}, "task": {"type": "worker", "index": 0}}',
                 '{"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 0.5}}',
                 '{"cluster": {"worker": ["a:1"], "ps": ["b:1"]}, "task": {"type": "ps", "index": 0}}'):  # fmt: skip
        monkeypatch.setenv("TF_CONFIG", text)
        done = call("main.py", "--savedir", tmp_path / "a", "--data_dir", data_dir, *SMALL)
        assert_refused(done, "TF_CONFIG cannot be used", '"index": 0')


def test_facts_are_the_same_only_where_no_process_has_others(monkeypatch):
    """The strategy is a stand-in: the mean over this process and one that computed `others`."""
    others, seen = [], []

    def all_reduce(kind, own):
        seen.append(own)
        return (own + others[-1]) / 2 if others else own

    strategy = SimpleNamespace(run=lambda step: step(), experimental_local_results=lambda value: [value])
    monkeypatch.setattr(tf.distribute, "get_replica_context", lambda: SimpleNamespace(all_reduce=all_reduce))
    same = partial(identity.same_everywhere, strategy)
    facts = (3, {"way": 5}, 17)
    assert same(*facts)  # alone
    others.append(seen[-1])
    assert same(*facts)
    for unlike in ((4, {"way": 5}, 17), (3, {"way": 6}, 17), (3, {"way": 5}, 18)):
        assert not same(*unlike)


MIRRORED = """
import numpy as np, tensorflow as tf
import data, learners
from training import steps
devices = [tf.config.LogicalDeviceConfiguration()] * 2
tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], devices)
split = data.Split(np.random.default_rng(0).integers(0, 256, (6, 5, 16, 16, 1), np.uint8), 4, 1 / 255)
name, perturbation, own = {own}
runs, firsts = [], []
for strategy in (None, tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])):
    learner = learners.make(name, perturbation, image_shape=(16, 16, 1), channels=3, way=3, jit={jit}, **own)
    made = steps.Engine(learner, shot=1, query=2, metabatch=4, seed=3, strategy=strategy)
    step = made.train_step(split)
    losses = [float(made.run_step(step, split, 0)[0])]
    firsts.append(made.slots["m"].numpy())
    losses += [float(made.run_step(step, split, i)[0]) for i in (1, 2)]
    runs.append([losses, *(v.numpy() for v in (*made.params.values(), *made.slots.values()))])
print(max(np.abs(np.subtract(a, b)).max() for a, b in zip(*runs)))
print(abs(runs[0][0][0] - runs[1][0][0]))
print(np.linalg.norm(firsts[0] - firsts[1]) / np.linalg.norm(firsts[0]))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("own", "jit"),
    [
        (("metadrop", "noise", {"n_steps": 1, "inner_lr": 0.4}), False),
        (("metadrop", "noise", {"n_steps": 1, "inner_lr": 0.4}), True),  # as on GPUs
        (("metanet_original", "mask", {}), False),
    ],
)
def test_two_devices_of_one_process_train_as_one(own, jit):
    """Parameters, running averages among them, and Adam's slots."""
    program = MIRRORED.replace("{own}", repr(own)).replace("{jit}", repr(jit))
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    furthest, first_loss, first_gradient = map(float, done.stdout.split())
    if jit:  # XLA may round programs of two and of four tasks otherwise, and a changed maximum moves a gradient by 30 %
        assert first_loss < 1e-5 and first_gradient < 0.5
    else:
        assert furthest < 1e-6
