"""`SharpnessTracker`: what it records, where, and what it leaves."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_lwsam import LWSAMModel, analysis, callbacks
from tests.curvature import normalizing_network, vector_data
from tests.support import (
    assert_equal,
    cross_entropy,
    dense_network,
    momentum_sgd,
    replicas,
    weights_of,
)
from tests.watched import (
    FEW,
    LITTLE,
    PATHS,
    Weights,
    X,
    Y,
    fit,
    read,
    small,
    tracking,
)


@pytest.mark.parametrize(
    "wrap", [True, pytest.param(False, marks=pytest.mark.exhaustive)]
)
def test_numbers_are_those_of_the_functions(wrap):
    weights = Weights()
    tracker = tracking(
        rho=0.1,
        noise_stddev=0.02,
        num_noise_samples=2,
        num_eigenvalues=2,
        num_trace_samples=3,
        per_layer=True,
        before_training=True,
        batch_size=5,
        seed=4,
    )
    fit(weights, tracker, model=small(wrap, run_eagerly=False, width=3))
    assert [row["epoch"] for row in tracker.history] == [-1, 0, 1]
    assert [(row["epoch"], row["layer"]) for row in tracker.layer_history] == [
        (epoch, path) for epoch in (-1, 0, 1) for path in PATHS
    ]
    network = dense_network(sizes=(3, 3, 3))
    network.compile(loss=cross_entropy())
    objective = analysis.Objective(network, X[:12], Y[:12], batch_size=5)
    for row in [*tracker.history, *tracker.layer_history]:
        network.set_weights(weights.kept[row["epoch"]])
        path = row.get("layer")
        average = analysis.average_sharpness(
            objective, stddev=0.02, num_samples=2, layers=path, seed=4
        )
        eigenvalues = analysis.hessian_eigenvalues(
            objective, k=2, layers=path, seed=4
        )
        expected = {
            "sharpness": analysis.sharpness(objective, rho=0.1, layers=path),
            "average_sharpness": average.mean,
            "average_sharpness_error": average.error,
            "eigenvalue_1": eigenvalues[0],
            "eigenvalue_2": eigenvalues[1],
        }
        if path is None:
            # Those of the layers are parts of the same products.
            trace = analysis.hessian_trace(objective, num_samples=3, seed=4)
            expected["trace"], expected["trace_error"] = trace
            expected["loss"] = objective.loss()
        for name, number in expected.items():
            assert row[name] == pytest.approx(number, rel=1e-5, abs=1e-6), name
    epochs = [row["loss"] for row in tracker.history]
    assert len(set(epochs)) == 3


def test_traces_of_layers_add_up_and_are_unbiased():
    tracker = tracking(
        **{**LITTLE, "num_trace_samples": 50}, per_layer=True, epochs=[1]
    )
    model, _ = fit(tracker, model=small(run_eagerly=False))
    (row,), rows = tracker.history, tracker.layer_history
    assert row["trace"] == pytest.approx(sum(r["trace"] for r in rows), 1e-6)
    objective = analysis.Objective(model, X[:12], Y[:12])
    for layer in rows:
        block = np.flatnonzero(objective.places(layer["layer"]))
        basis = np.eye(objective.size)[block]
        trace = sum(objective.product(v) @ v for v in basis)
        assert abs(layer["trace"] - trace) < 4.0 * layer["trace_error"]


COLUMNS = {
    "nothing": (LITTLE, []),
    "noise": (
        {**LITTLE, "num_noise_samples": 1},
        ["average_sharpness", "average_sharpness_error"],
    ),
    "trace": (
        {**LITTLE, "num_trace_samples": 1},
        ["trace", "trace_error"],
    ),
    "eigenvalues": (
        {**LITTLE, "num_eigenvalues": 3},
        ["eigenvalue_1", "eigenvalue_2", "eigenvalue_3"],
    ),
}


@pytest.mark.parametrize("kind", COLUMNS)
def test_what_is_left_out_has_no_column(kind, tmp_path):
    arguments, columns = COLUMNS[kind]
    path = tmp_path / "new" / "sharp.csv"
    tracker = tracking(**arguments, per_layer=True, csv_path=path)
    fit(tracker, epochs=1)
    expected = ["epoch", "loss", "sharpness", *columns]
    assert [list(row) for row in tracker.history] == [expected]
    assert list(read(path)[0]) == expected
    expected[1] = "layer"
    assert [list(row) for row in tracker.layer_history] == [expected] * 2
    assert list(read(path.with_name("sharp_layers.csv"))[0]) == expected
    for row in tracker.history:
        # A single draw has no spread.
        errors = {n for n, value in row.items() if np.isnan(value)}
        assert errors == {n for n in columns if n.endswith("error")}


def test_layers_only_where_they_are_wanted(tmp_path):
    tracker = tracking(**LITTLE, csv_path=tmp_path / "sharp.csv")
    fit(tracker)
    assert tracker.layer_history == []
    assert [path.name for path in tmp_path.iterdir()] == ["sharp.csv"]


WHEN = [(np.int64(2), [1, 3]), ([0, 3], [0, 3])]

MORE = [
    (1, [0, 1, 2, 3]),
    (9, []),
    ({2}, [2]),
    (range(1, 3), [1, 2]),
    ((7,), []),
    ([], []),
]
MORE = [pytest.param(*when, marks=pytest.mark.exhaustive) for when in MORE]


@pytest.mark.parametrize(("epochs", "expected"), [*WHEN, *MORE], ids=str)
def test_epochs(epochs, expected):
    tracker = tracking(**LITTLE, epochs=epochs)
    fit(tracker, epochs=4)
    assert [row["epoch"] for row in tracker.history] == expected


def test_history_is_that_of_the_latest_fit():
    tracker = tracking(**LITTLE, before_training=True)
    model, _ = fit(tracker, model=small(width=3))
    first = tracker.history
    fit(tracker, model=model, epochs=3, initial_epoch=2)
    # Training that goes on is not before training.
    assert [row["epoch"] for row in tracker.history] == [2]
    fit(tracker, model=model)
    assert [row["epoch"] for row in tracker.history] == [-1, 0, 1]
    assert [row["epoch"] for row in first] == [-1, 0, 1]
    assert tracker.history[0]["loss"] != first[0]["loss"]


def test_a_layer_of_fewer_weights_than_eigenvalues():
    """What there is not is NaN."""
    network = keras.Sequential(
        [keras.Input((3,)), keras.layers.Dense(1, use_bias=False)]
    )
    network.compile("sgd", "mse", run_eagerly=True)
    tracker = callbacks.SharpnessTracker(X, Y, num_eigenvalues=5)
    network.fit(X, Y, verbose=0, callbacks=[tracker])
    (row,) = tracker.history
    found = [row[f"eigenvalue_{i}"] for i in range(1, 6)]
    np.testing.assert_array_equal(np.isnan(found), [False] * 3 + [True] * 2)


def test_weights_that_are_not_finite_do_not_end_training():
    model = small()
    kernel = model.get_layer("dense1").kernel
    kernel.assign(np.full(kernel.shape, np.nan))
    tracker = tracking(**FEW, per_layer=True, epochs=[1])
    with pytest.warns(UserWarning, match="not finite"):
        _, history = fit(tracker, model=model, epochs=3)
    assert len(history["loss"]) == 3
    (row,) = tracker.history
    names = set(row) - {"epoch"}
    assert {name for name in names if np.isnan(row[name])} == names


def test_a_model_that_fit_builds():
    model = keras.Sequential([keras.layers.Dense(3, name="late")], name="net")
    model.compile("sgd", cross_entropy(), run_eagerly=True)
    tracker = tracking(**LITTLE, per_layer=True)
    fit(tracker, model=model)
    assert [row["epoch"] for row in tracker.history] == [0, 1]
    assert {row["layer"] for row in tracker.layer_history} == {"net/late"}


@pytest.mark.parametrize(
    "method",
    [
        "sam",
        pytest.param("look_sam", marks=pytest.mark.exhaustive),
        pytest.param(None, marks=pytest.mark.exhaustive),
    ],
)
def test_training_is_bit_for_bit_the_same(method, tmp_path):
    """In graph mode, with dropout, BatchNorm and shuffling."""
    x, y = vector_data(24)
    found = []
    for watched in (False, True):
        model = normalizing_network()
        if method:
            model = LWSAMModel(model, method, layers=2)
        model.compile(momentum_sgd(), cross_entropy(), metrics=["accuracy"])
        keras.utils.set_random_seed(3)
        tracker = callbacks.SharpnessTracker(
            x[:8],
            y[:8],
            per_layer=True,
            before_training=True,
            num_noise_samples=1,
            num_trace_samples=1,
            num_eigenvalues=0,
        )
        recorder = callbacks.TrajectoryRecorder(tmp_path)
        history = model.fit(
            x,
            y,
            batch_size=8,
            epochs=2,
            verbose=0,
            validation_data=(x, y),
            callbacks=[tracker, recorder] if watched else [],
        )
        optimizer = [np.array(v) for v in model.optimizer.variables]
        found.append(([*weights_of(model), *optimizer], history.history))
    (expected, logs), (actual, logs_of_watched) = found
    assert_equal(actual, expected)
    assert logs == logs_of_watched
    assert len(tracker.history) == 3


@pytest.mark.tensorflow
def test_on_replicas():
    """The same as on one."""
    alone = small()
    with replicas(2).scope():
        shared = small()
    found = []
    for model in (alone, shared):
        tracker = tracking(
            **FEW, per_layer=True, before_training=True, num_eigenvalues=0
        )
        fit(tracker, model=model, epochs=1, shuffle=False)
        found.append([*tracker.history, *tracker.layer_history])
    for one, other in zip(*found, strict=True):
        assert one.pop("layer", None) == other.pop("layer", None)
        for name, number in one.items():
            assert number == pytest.approx(other[name], rel=1e-3, abs=1e-5)


BAD = [
    ({"rho": -1.0}, ValueError, "`rho`"),
    ({"noise_stddev": -1.0}, ValueError, "`noise_stddev`"),
    ({"num_noise_samples": -1}, ValueError, "`num_noise_samples`"),
    ({"num_eigenvalues": 1.0}, TypeError, "`num_eigenvalues`"),
    ({"num_trace_samples": True}, TypeError, "`num_trace_samples`"),
    ({"per_layer": 1}, TypeError, "`per_layer`"),
    ({"epochs": 0}, ValueError, "`epochs`"),
    ({"epochs": True}, TypeError, "`epochs`"),
    ({"epochs": "all"}, TypeError, "`epochs`"),
    ({"epochs": [0, -1]}, ValueError, "`epochs`"),
    ({"epochs": [0.5]}, TypeError, "`epochs`"),
    ({"before_training": None}, TypeError, "`before_training`"),
    ({"batch_size": 0}, ValueError, "`batch_size`"),
    ({"seed": -1}, ValueError, "`seed`"),
    ({"csv_path": 1}, TypeError, "`csv_path`"),
    ({"log_dir": 1}, TypeError, "`log_dir`"),
    ({"add_to_logs": "yes"}, TypeError, "`add_to_logs`"),
]


@pytest.mark.parametrize(("arguments", "error", "message"), BAD, ids=str)
def test_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        tracking(**arguments)


def test_bad_data_is_refused_when_fit_begins():
    endless = tf.data.Dataset.from_tensors((X, Y)).repeat()
    trained = small()
    before = weights_of(trained)
    for data, message in (
        ((endless,), "must have an end"),
        ((None,), "`x` must be the inputs"),
        ((X[:0], Y[:0]), "must have a sample"),
    ):
        with pytest.raises(ValueError, match=message):
            fit(callbacks.SharpnessTracker(*data), model=trained)
    assert_equal(weights_of(trained), before)
