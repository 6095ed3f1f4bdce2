"""`examples/recipe.py`: options, runs that go on, results."""

import gc
import json
import os
import pathlib
import re
import subprocess
import sys

import keras
import multi_worker
import numpy as np
import pytest
import recipe
import tensorflow as tf

from keras_lwsam import callbacks, plots
from tests.backends import to_numpy
from tests.examples_offline import load, parse, run, write_digits
from tests.support import assert_equal

ROOT = pathlib.Path(__file__).parents[1]

pytestmark = pytest.mark.documentation


def test_help_tells_every_option_and_its_defaults(capsys):
    with pytest.raises(SystemExit) as stop:
        parse(["--help"])
    assert stop.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    for option in (
        *("--method", "--layers", "--rho", "--epochs", "--batch-size"),
        *("--learning-rate", "--weight-decay", "--seed", "--limit"),
        *("--strategy", "--precision", "--data-dir", "--offline", "--small"),
        *("--output", "--resume", "--no-resume", "--tensorboard"),
    ):
        assert option in text
    assert "all runs together (90; with --offline 2)" in text
    assert "their own (0.07)" in text


def test_defaults():
    args = parse([])
    assert (args.epochs, args.batch_size, args.rho) == (90, 256, 0.07)
    assert not args.small
    args = parse(["--offline"])
    assert (args.epochs, args.batch_size, args.rho) == (2, 64, 0.07)
    assert args.small
    args = parse(["--offline", "--epochs", 7, "--no-small", "--method", "asam"])
    assert (args.epochs, args.rho, args.small) == (7, None, False)
    assert parse(["--method", "none"]).rho == 0.0
    assert parse(["--method", "asam", "--rho", 0.3]).rho == 0.3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--method", "sums"], "'sums'"),
        (["--method", "async_sams"], "async_sam"),
        (["--method", "entropy_sgd", "--rho", 1], "no radius"),
        (["--layers", "1.5"], "1.5"),
        (["--rho", -1], "-1"),
        (["--offline", "missing.npz"], "no file missing.npz"),
        (["--epochs", 0], "--epochs"),
        (["--strategy", "tpu"], "--strategy"),
    ],
)
def test_wrong_options(arguments, message, capsys):
    with pytest.raises(SystemExit) as stop:
        parse(arguments)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_a_run_and_its_results(tmp_path):
    results = run(tmp_path, "--seed", 3, eager=False)
    assert results["example"] == "tiny"
    assert results["arguments"]["seed"] == 3
    assert results["data"] == {
        **{"name": "digits", "train": 1347, "test": 450, "classes": 10}
    }
    assert results["network"]["name"] == "tiny"
    assert results["method"] == "SAM(rho=0.07)"
    assert results["selected_layers"] == ["tiny/logits"]
    assert results["layers"] == 2
    assert results["versions"]["keras"] == keras.__version__
    assert results["epochs_of_this_call"] == 2
    history = results["history"]
    assert history["epoch"] == [0, 1]
    assert history["loss"][1] < history["loss"][0]
    assert results["test"]["accuracy"] > 0.6
    assert results["test"]["accuracy"] == history["val_accuracy"][-1]

    network = keras.saving.load_model(tmp_path / "network.keras")
    batches = list(load(parse(["--offline"])).test)
    right = sum(
        int(np.sum(np.argmax(network.predict_on_batch(np.asarray(x)), -1) == y))
        for x, y in batches
    )
    assert right / 450 == pytest.approx(results["test"]["accuracy"])
    assert plots.report(tmp_path).exists()


def test_a_run_is_prolonged(tmp_path):
    first = run(tmp_path, "--epochs", 1, "--limit", 128)
    second = run(tmp_path, "--epochs", 3, "--limit", 128)
    assert first["epochs_of_this_call"] == 1
    assert second["epochs_of_this_call"] == 2
    history = second["history"]["loss"]
    assert len(history) == 3
    assert history[:1] == first["history"]["loss"]
    again = run(tmp_path, "--epochs", 3, "--limit", 128)
    assert again["epochs_of_this_call"] == 0
    assert again["test"] == second["test"]
    assert again["history"] == second["history"]


# The file of a `CSVLogger` whose training was interrupted.
@pytest.mark.not_torch
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
def test_an_interrupted_run_is_as_if_it_was_not(tmp_path, monkeypatch):
    arguments = ("--epochs", 3, "--limit", 128, "--layers", 1)
    whole = run(tmp_path / "whole", *arguments)
    back_up = callbacks.BackupAndRestore.on_epoch_end

    def stop(self, epoch, logs=None):
        back_up(self, epoch, logs)
        raise KeyboardInterrupt

    monkeypatch.setattr(callbacks.BackupAndRestore, "on_epoch_end", stop)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "parts", *arguments)
    monkeypatch.undo()
    # The file is closed by now, where its warning is expected.
    gc.collect()
    rest = run(tmp_path / "parts", *arguments)
    assert rest["epochs_of_this_call"] == 2
    assert rest["history"] == whole["history"]
    networks = [
        keras.saving.load_model(tmp_path / folder / "network.keras")
        for folder in ("parts", "whole")
    ]
    assert_equal(*(network.get_weights() for network in networks))


def test_other_arguments_do_not_go_on_with_a_run(tmp_path):
    run(tmp_path, "--epochs", 2, "--limit", 64)
    for other, message in (
        (["--epochs", 2, "--limit", 64, "--rho", 0.3], "rho: 0.07 before, 0.3"),
        (["--epochs", 1, "--limit", 64], "epochs: 2 before, 1 now"),
    ):
        with pytest.raises(SystemExit, match=re.escape(message)):
            run(tmp_path, *other)
    anew = run(tmp_path, "--epochs", 1, "--limit", 64, "--no-resume")
    assert anew["epochs_of_this_call"] == 1
    assert len(anew["history"]["loss"]) == 1
    arguments = json.loads((tmp_path / "arguments.json").read_text())
    assert arguments["epochs"] == 1


def test_without_a_method(tmp_path):
    results = run(tmp_path, "--method", "none", "--limit", 64)
    assert results["method"] is None
    assert results["selected_layers"] == []
    assert results["history"]["sharpness"] == [0, 0]


@pytest.mark.exhaustive
def test_on_replicas_in_mixed_precision(tmp_path):
    results = run(
        tmp_path,
        *("--strategy", "mirrored", "--precision", "mixed_bfloat16"),
        *("--limit", 128, "--method", "gsam", "--layers", "all"),
        eager=False,
    )
    assert results["replicas"] == 2
    assert results["method"].startswith("GSAM")
    assert results["selected_layers"] == ["tiny/hidden", "tiny/logits"]
    network = json.loads((tmp_path / "run.json").read_text())["network"]
    assert network["dtype"] == "mixed_bfloat16"


def test_several_workers_are_described_by_tf_config(tmp_path, monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    with pytest.raises(SystemExit, match="TF_CONFIG"):
        run(tmp_path, "--strategy", "multiworker")


def run_workers(*arguments):
    """Runs the tiny example on two workers of this machine."""
    ports = multi_worker.free_ports(2)
    cluster = {"worker": [f"localhost:{port}" for port in ports]}
    paths = [str(ROOT), str(ROOT / "examples"), *sys.path]
    workers = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.examples_offline", *arguments],
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(paths),
                "TF_CONFIG": json.dumps(
                    {
                        "cluster": cluster,
                        "task": {"type": "worker", "index": index},
                    }
                ),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(2)
    ]
    try:
        told = [worker.communicate(timeout=300) for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    assert [w.returncode for w in workers] == [0, 0], told[0][1][-3000:]
    return [out for out, _ in told]


@pytest.mark.exhaustive
def test_on_two_workers(tmp_path):
    arguments = ("--offline", "--limit", "128", "--output", str(tmp_path))
    for epochs in (1, 2):
        told = run_workers(
            *arguments, "--strategy", "multiworker", "--epochs", str(epochs)
        )
        assert "Test: accuracy" in told[0]
        assert not told[1]
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["replicas"] == 2
    assert results["epochs_of_this_call"] == 1
    assert len(results["history"]["loss"]) == 2


def test_tensorboard(tmp_path):
    results = run(tmp_path, "--limit", 64, "--tensorboard")
    scalars = {}
    for path in (tmp_path / "tensorboard").iterdir():
        for record in tf.data.TFRecordDataset(str(path)):
            event = tf.compat.v1.Event.FromString(record.numpy())
            for value in event.summary.value:
                number = tf.make_ndarray(value.tensor)
                scalars[value.tag, event.step] = float(number)
    for epoch, loss in enumerate(results["history"]["loss"]):
        assert scalars["epoch/loss", epoch] == pytest.approx(loss)
    assert ("l2_norm/grad/tiny/logits", 1) in scalars


def test_weight_decay_is_in_the_gradient():
    network = recipe.decay_weights(
        keras.Sequential([keras.Input((2,)), keras.layers.Dense(3)]), 0.5
    )
    squares = sum(np.sum(w**2) for w in network.get_weights())
    added = float(to_numpy(sum(network.losses)))
    assert added == pytest.approx(0.25 * squares, rel=1e-6)
    other = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3)])
    assert recipe.decay_weights(other, 0.0).losses == []


@pytest.mark.parametrize(("epochs", "warm"), [(90, 5), (10, 1), (9, 0)])
def test_schedule(epochs, warm):
    args = parse(["--offline", "--epochs", epochs])
    data = load(args)
    rate = recipe.sgd(args, data, warmup=5)._learning_rate
    steps = data.steps
    expected = 0.0 if warm else 0.1
    assert float(rate(0)) == pytest.approx(expected)
    assert float(rate(warm * steps)) == pytest.approx(0.1)
    middle = (warm + epochs) * steps // 2
    assert float(rate(middle)) == pytest.approx(0.05, rel=0.02)
    assert float(rate(epochs * steps)) == pytest.approx(0.0, abs=1e-8)


def test_what_cannot_be_trained_is_refused_and_leaves_no_run(tmp_path):
    path, output = tmp_path / "data.npz", tmp_path / "run"
    np.savez(path, x_train=np.zeros((4, 8, 8)))
    with pytest.raises(SystemExit, match="y_train"):
        run(output, "--offline", path)
    path = write_digits(path)
    with pytest.raises(SystemExit, match="there are 48"):
        run(output, "--offline", path)
    fits = ("--offline", path, "--batch-size", 24, "--epochs", 1)
    with pytest.raises(SystemExit, match="tiny/hidden"):
        run(output, *fits, "--layers", "tail")
    assert run(output, *fits)["data"]["train"] == 48
