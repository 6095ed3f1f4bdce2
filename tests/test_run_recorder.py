"""`RunRecorder`: what a run was, and how it went, in a directory."""

import csv
import json

import keras
import numpy as np
import pytest

from keras_lwsam import LWSAMModel, callbacks, methods, schedules
from tests.support import cross_entropy, dense_network, momentum_sgd

X = np.random.default_rng(0).normal(size=(32, 10)).astype("float32")
Y = np.arange(32) % 4


def train(folder, model=None, behind=(), name=None, **kwargs):
    if model is None:
        model = LWSAMModel(
            dense_network(),
            methods.GNP(0.1, alpha=0.7),
            layers=2,
            schedule=schedules.EverySteps(2),
        )
        model.compile(momentum_sgd(), cross_entropy(), run_eagerly=True)
    recorder = callbacks.RunRecorder(folder, name)
    kwargs = {"epochs": 2, "verbose": 0, **kwargs}
    model.fit(X, Y, batch_size=16, callbacks=[recorder, *behind], **kwargs)
    return model


def rows(folder):
    with open(folder / "history.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_the_configuration_says_what_was_trained_and_how(tmp_path):
    train(tmp_path / "deep" / "first")
    text = (tmp_path / "deep" / "first" / "run.json").read_text()
    run = json.loads(text)
    assert run["name"] == "first"
    aware = run["sharpness_aware"]
    assert aware["method"] == "GNP(rho=0.1, alpha=0.7)"
    assert "LargestGradientNorm" in aware["layers"]
    assert aware["schedule"] == "EverySteps(k=2)"
    assert run["optimizer"]["class"] == "SGD"
    assert run["optimizer"]["momentum"] == 0.9
    assert run["optimizer"]["learning_rate"] == 0.1
    assert run["loss"] == "sparse_categorical_crossentropy"
    assert run["network"]["parameters"] == dense_network().count_params()
    assert run["fit"] == {"epochs": 2, "steps": 2}
    assert run["versions"]["keras"] == keras.__version__


def test_the_logs_are_those_of_keras(tmp_path):
    beside = tmp_path / "keras.csv"
    train(tmp_path, behind=[keras.callbacks.CSVLogger(beside)], name="SAM")
    assert (tmp_path / "history.csv").read_text() == beside.read_text()
    assert json.loads((tmp_path / "run.json").read_text())["name"] == "SAM"


def test_a_run_that_goes_on_goes_on_with_its_logs(tmp_path):
    model = train(tmp_path)
    before = rows(tmp_path)
    with open(tmp_path / "history.csv", "a") as file:
        file.write("2,0.5")  # Cut off with the process.
    train(tmp_path, model, initial_epoch=2, epochs=3)
    assert rows(tmp_path)[:2] == before
    assert [row["epoch"] for row in rows(tmp_path)] == ["0", "1", "2"]
    train(tmp_path, model, initial_epoch=1, epochs=2)
    assert rows(tmp_path)[0] == before[0]
    assert [row["epoch"] for row in rows(tmp_path)] == ["0", "1"]
    # Anew, with other columns.
    model.compile(momentum_sgd(), cross_entropy(), metrics=["accuracy"])
    train(tmp_path, model, epochs=1)
    assert [row["epoch"] for row in rows(tmp_path)] == ["0"]
    assert "accuracy" in rows(tmp_path)[0]


def test_a_plain_model_and_a_schedule_of_the_learning_rate(tmp_path):
    model = dense_network()
    rate = keras.optimizers.schedules.CosineDecay(0.1, 10)
    model.compile(
        keras.optimizers.Adam(rate), loss=lambda y, p: keras.ops.mean(p)
    )
    train(tmp_path, model)
    run = json.loads((tmp_path / "run.json").read_text())
    assert run["sharpness_aware"] == {}
    assert run["optimizer"]["learning_rate"]["class_name"] == "CosineDecay"
    assert "lambda" in run["loss"]


def test_odd_configurations_are_json_all_the_same(tmp_path):
    """Numbers that JSON has not, scaled losses, functions."""
    model = LWSAMModel(dense_network(), rho=0.05)
    inner = keras.optimizers.SGD(lambda: 0.1, momentum=0.9)
    model.compile(
        keras.optimizers.LossScaleOptimizer(inner),
        cross_entropy(),
        run_eagerly=True,
    )
    train(tmp_path, model)

    def refuse(constant):
        raise AssertionError(constant)

    text = (tmp_path / "run.json").read_text()
    run = json.loads(text, parse_constant=refuse)
    config = run["optimizer"]["inner_optimizer"]["config"]
    assert config["momentum"] == 0.9
    assert config["learning_rate"] == "lambda"
    assert "tests" not in text
    model.compile(keras.optimizers.SGD(np.nan), cross_entropy())
    train(tmp_path, model, epochs=1)
    run = json.loads((tmp_path / "run.json").read_text(), parse_constant=refuse)
    assert run["optimizer"]["learning_rate"] == "nan"


def test_wrong_arguments(tmp_path):
    with pytest.raises(TypeError, match=r"`run_dir` must be the path"):
        callbacks.RunRecorder(None)
    with pytest.raises(TypeError, match=r"`run_dir` must be a path"):
        callbacks.RunRecorder(3)
    with pytest.raises(TypeError, match=r"`name` must be a string"):
        callbacks.RunRecorder(tmp_path, 3)
    assert list(tmp_path.iterdir()) == []
