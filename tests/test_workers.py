"""Two workers on loopback equal one, and go on when one of them is killed."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import keras
import multi_worker
import numpy as np
import pytest
import small_task
import tensorflow as tf

from keras_lwsam import LWSAMModel
from tests.cases import CASES
from tests.support import mirrored
from tests.worker import outcome, train

pytestmark = pytest.mark.tensorflow

ROOT = pathlib.Path(__file__).parents[1]
LIMIT = 300
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]),
}


def run_workers(output, names):
    """Trains the cases on two workers; returns what each found."""
    ports = multi_worker.free_ports(2)
    cluster = {"worker": [f"localhost:{port}" for port in ports]}
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.worker", str(output), *names],
            env={
                **ENVIRONMENT,
                "TF_CONFIG": json.dumps(
                    {
                        "cluster": cluster,
                        "task": {"type": "worker", "index": index},
                    }
                ),
            },
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(2)
    ]
    try:
        errors = [p.communicate(timeout=LIMIT)[1] for p in processes]
    finally:
        for process in processes:
            process.kill()
    assert [p.returncode for p in processes] == [0, 0], errors[0][-3000:]
    return {
        name: [np.load(output / f"{name}_{index}.npz") for index in range(2)]
        for name in names
    }


def check(name, found, expected):
    """Both workers, bit for bit each other, are the reference."""
    one, other = found
    assert sorted(one) == sorted(expected)
    for key in one:
        np.testing.assert_array_equal(one[key], other[key], err_msg=key)
        if key != "traces":
            np.testing.assert_allclose(
                one[key], expected[key], rtol=1e-3, atol=1e-5, err_msg=name
            )
    for key in expected:
        if key.startswith("w"):
            np.testing.assert_allclose(one[key], expected[key], atol=1e-5)
    assert one["traces"] >= 1


def compare(names, output):
    found = run_workers(output, names)
    for name in names:
        strategy = (
            mirrored() if name == "apart" else tf.distribute.get_strategy()
        )
        expected = outcome(*train(strategy, name, run_eagerly=name != "apart"))
        check(name, found[name], expected)


def test_two_workers_equal_one(tmp_path):
    """Weights, logs, validation, predictions, selection and norms.

    "apart": each replica climbs its own gradient, as two of one machine do.
    """
    compare(["default", "apart", "sampa"], tmp_path)


@pytest.mark.exhaustive
def test_two_workers_equal_one_by_every_method(tmp_path):
    compare(list(CASES), tmp_path)


@pytest.mark.exhaustive
def test_a_killed_worker_is_started_again_and_training_goes_on(tmp_path):
    """The example, of which a worker is killed, against one device.

    SAMPa has it all to lose: a gradient, and a batch that each worker has.
    """
    output = tmp_path / "run"
    command = [
        sys.executable,
        str(ROOT / "examples" / "multi_worker.py"),
        *["--workers", "2", "--epochs", "4", "--method", "sampa"],
        *["--layers", "all", "--batch-size", "256", "--learning-rate", "0.01"],
        *["--output", str(output)],
    ]
    process = subprocess.Popen(
        command,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        started = next(line for line in process.stdout if "Worker 1:" in line)
        victim = int(started.split()[-1])
        backup = output / "backup" / "worker_1" / "epoch_00002.weights.h5"
        deadline = time.monotonic() + LIMIT
        while not backup.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        os.kill(victim, signal.SIGKILL)
        printed, _ = process.communicate(timeout=LIMIT)
    finally:
        process.kill()
    assert process.returncode == 0, printed
    assert "Worker 1 died (-9)." in printed
    assert printed.count("Starting all again") == 1
    epochs = json.loads((output / "epochs.json").read_text())
    assert list(epochs) == ["0", "1", "2", "3"]
    losses = [logs["loss"] for logs in epochs.values()]
    assert not (output / "backup").exists()

    (x, y), _ = small_task.load(None)
    keras.utils.set_random_seed(0)
    network = small_task.build_network(x.shape[1:], 10)
    model = LWSAMModel(network, "sampa", layers="all")
    small_task.compiled(model, 0.01)
    logs = model.fit(
        x, y, batch_size=256, epochs=4, shuffle=False, verbose=0
    ).history
    np.testing.assert_allclose(losses, logs["loss"], rtol=1e-3)
    with np.load(output / "weights.npz") as saved:
        for value, name in zip(network.get_weights(), saved.files, strict=True):
            np.testing.assert_allclose(saved[name], value, rtol=0, atol=1e-3)
