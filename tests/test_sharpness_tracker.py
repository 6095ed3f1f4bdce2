"""`SharpnessTracker` and `TrajectoryRecorder`: what they record and leave."""

import csv

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_lwsam import LWSAMModel, analysis, callbacks
from tests.support import (
    assert_equal,
    convolutional_network,
    cross_entropy,
    dense_network,
    image_data,
    momentum_sgd,
    replicas,
    weights_of,
)

PATHS = ["dense/dense1", "dense/dense2"]
X = np.random.default_rng(0).normal(size=(24, 5)).astype("float32")
Y = np.arange(24) % 3

# Nothing that takes long.
LITTLE = {"num_noise_samples": 0, "num_eigenvalues": 0, "num_trace_samples": 0}


def tracking(**kwargs):
    return callbacks.SharpnessTracker(X[:12], Y[:12], **kwargs)


def small(wrap=False, run_eagerly=True):
    model = dense_network(sizes=(5, 4, 3))
    if wrap:
        model = LWSAMModel(model, layers=1)
    model.compile(momentum_sgd(), cross_entropy(), run_eagerly=run_eagerly)
    return model


def fit(*trackers, model=None, epochs=2, **kwargs):
    model = small() if model is None else model
    history = model.fit(
        X,
        Y,
        batch_size=8,
        epochs=epochs,
        verbose=0,
        callbacks=list(trackers),
        **kwargs,
    )
    return model, history.history


def read(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def as_numbers(rows):
    return [
        {k: v if k == "layer" else float(v) for k, v in row.items()}
        for row in rows
    ]


# --- What is measured ------------------------------------------------------


class Weights(keras.callbacks.Callback):
    """Keeps the network's weights of the start and of each epoch."""

    def on_train_begin(self, logs=None):
        self.kept = {}

    def on_epoch_begin(self, epoch, logs=None):
        self.kept.setdefault(epoch - 1, self._now())

    def on_epoch_end(self, epoch, logs=None):
        self.kept[epoch] = self._now()

    def _now(self):
        return weights_of(getattr(self.model, "model", self.model))


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
    fit(weights, tracker, model=small(wrap, run_eagerly=False))
    assert [row["epoch"] for row in tracker.history] == [-1, 0, 1]
    assert [(row["epoch"], row["layer"]) for row in tracker.layer_history] == [
        (epoch, path) for epoch in (-1, 0, 1) for path in PATHS
    ]
    network = dense_network(sizes=(5, 4, 3))
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
    assert epochs[0] > epochs[1] > epochs[2]


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
    model, _ = fit(tracker)
    first = tracker.history
    fit(tracker, model=model, epochs=3, initial_epoch=2)
    # Training that goes on is not before training.
    assert [row["epoch"] for row in tracker.history] == [2]
    fit(tracker, model=model)
    assert [row["epoch"] for row in tracker.history] == [-1, 0, 1]
    assert [row["epoch"] for row in first] == [-1, 0, 1]
    assert tracker.history[0]["loss"] < first[0]["loss"]


def test_a_layer_of_fewer_weights_than_eigenvalues():
    """What there is not is NaN."""
    network = keras.Sequential(
        [keras.Input((5,)), keras.layers.Dense(1, use_bias=False)]
    )
    network.compile("sgd", "mse", run_eagerly=True)
    tracker = callbacks.SharpnessTracker(X, Y, num_eigenvalues=7)
    network.fit(X, Y, verbose=0, callbacks=[tracker])
    (row,) = tracker.history
    found = [row[f"eigenvalue_{i}"] for i in range(1, 8)]
    np.testing.assert_array_equal(np.isnan(found), [False] * 5 + [True] * 2)


def test_weights_that_are_not_finite_do_not_end_training():
    model = small()
    kernel = model.get_layer("dense1").kernel
    kernel.assign(np.full(kernel.shape, np.nan))
    tracker = tracking(per_layer=True, epochs=[1])
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


# --- Where it goes ---------------------------------------------------------


def test_files_hold_what_history_holds(tmp_path):
    path = tmp_path / "sharp.csv"
    tracker = tracking(
        num_eigenvalues=0, per_layer=True, before_training=True, csv_path=path
    )
    fit(tracker)
    assert as_numbers(read(path)) == tracker.history
    layers = tmp_path / "sharp_layers.csv"
    assert as_numbers(read(layers)) == tracker.layer_history
    # A second training begins anew.
    fit(tracker, epochs=1)
    assert [row["epoch"] for row in read(path)] == ["-1", "0"]


def test_files_go_on_with_the_training(tmp_path):
    path = tmp_path / "sharp.csv"
    tracker = tracking(
        **LITTLE, per_layer=True, before_training=True, csv_path=path
    )
    model, _ = fit(tracker, epochs=3)
    before = read(path)
    with open(path, "a") as file:
        file.write("3,0.")
    fit(tracker, model=model, epochs=4, initial_epoch=2)
    after = read(path)
    assert [row["epoch"] for row in after] == ["-1", "0", "1", "2", "3"]
    assert after[:3] == before[:3]
    layers = read(tmp_path / "sharp_layers.csv")
    assert [row["epoch"] for row in layers[::2]] == ["-1", "0", "1", "2", "3"]
    assert [row["layer"] for row in layers] == PATHS * 5


def test_tensorboard_scalars(tmp_path):
    tracker = tracking(
        per_layer=True,
        before_training=True,
        num_noise_samples=2,
        num_trace_samples=1,
        num_eigenvalues=2,
        log_dir=tmp_path,
    )
    fit(tracker, epochs=1)
    scalars = {}
    for file in tmp_path.iterdir():
        for record in tf.data.TFRecordDataset(str(file)):
            event = tf.compat.v1.Event.FromString(record.numpy())
            for value in event.summary.value:
                number = float(tf.make_ndarray(value.tensor))
                scalars.setdefault(value.tag, {})[event.step] = number
    tags = {
        "sharpness/sam": "sharpness",
        "sharpness/average": "average_sharpness",
        "sharpness/average_error": "average_sharpness_error",
        "hessian/trace": "trace",
        # The error of a single draw is not known, and has no scalar.
        "hessian/eigenvalue_1": "eigenvalue_1",
        "hessian/eigenvalue_2": "eigenvalue_2",
    }
    suffixes = ["", *(f"/{path}" for path in PATHS)]
    assert set(scalars) == {tag + suffix for tag in tags for suffix in suffixes}
    for row in [*tracker.history, *tracker.layer_history]:
        suffix = f"/{row['layer']}" if "layer" in row else ""
        for tag, column in tags.items():
            written = scalars[tag + suffix][row["epoch"]]
            assert written == np.float32(row[column])


def test_other_loggers_see_it(tmp_path):
    """NaN in the epochs that are not measured."""
    tracker = tracking(
        epochs=2, num_trace_samples=0, add_to_logs=True, per_layer=True
    )
    logger = keras.callbacks.CSVLogger(tmp_path / "log.csv")
    _, history = fit(tracker, logger, epochs=4)
    names = {
        "sharpness/sam": "sharpness",
        "sharpness/average": "average_sharpness",
        "sharpness/average_error": "average_sharpness_error",
        "hessian/eigenvalue_1": "eigenvalue_1",
    }
    added = {name for name in history if "/" in name}
    assert added == set(names)
    rows = read(tmp_path / "log.csv")
    for name, column in names.items():
        expected = [np.nan, np.nan, np.nan, np.nan]
        expected[1], expected[3] = (row[column] for row in tracker.history)
        np.testing.assert_array_equal(history[name], expected)
        logged = [float(row[name]) for row in rows]
        np.testing.assert_allclose(logged, expected, rtol=1e-12)


def test_logs_are_left_alone_unless_asked():
    _, history = fit(tracking(**LITTLE))
    assert not [name for name in history if "/" in name]


# --- Training is not touched -----------------------------------------------


@pytest.mark.parametrize(
    "wrap", [True, pytest.param(False, marks=pytest.mark.exhaustive)]
)
def test_training_is_bit_for_bit_the_same(wrap, tmp_path):
    """In graph mode, with dropout, BatchNorm and shuffling."""
    x, y = image_data(24)
    found = []
    for watched in (False, True):
        model = convolutional_network()
        if wrap:
            model = LWSAMModel(model, "look_sam", layers=2)
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


def test_on_replicas():
    """The same as on one."""
    alone = small()
    with replicas(2).scope():
        shared = small()
    found = []
    for model in (alone, shared):
        tracker = tracking(
            per_layer=True, before_training=True, num_eigenvalues=0
        )
        fit(tracker, model=model, epochs=1, shuffle=False)
        found.append([*tracker.history, *tracker.layer_history])
    for one, other in zip(*found, strict=True):
        assert one.pop("layer", None) == other.pop("layer", None)
        for name, number in one.items():
            assert number == pytest.approx(other[name], rel=1e-3, abs=1e-5)


# --- Bad input -------------------------------------------------------------


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


# --- TrajectoryRecorder ----------------------------------------------------


def names(directory):
    return sorted(path.name for path in directory.iterdir())


def files(*numbers):
    return [f"weights_{number:06d}.npz" for number in numbers]


def arrays_in(path):
    with np.load(path) as data:
        return [data[f"{i}"] for i in range(len(data.files))]


@pytest.mark.parametrize("wrap", [True, False])
def test_weights_of_every_epoch_are_recorded(wrap, tmp_path):
    weights = Weights()
    recorder = callbacks.TrajectoryRecorder(tmp_path / "a" / "b")
    model, _ = fit(weights, recorder, model=small(wrap), epochs=3)
    assert names(tmp_path / "a" / "b") == files(0, 1, 2, 3)
    trajectory = analysis.TrajectoryPlane(str(tmp_path / "a" / "b")).trajectory
    for epoch in range(-1, 3):
        assert_equal(trajectory[epoch + 1], weights.kept[epoch])
    found = analysis.loss_landscape(
        model,
        X,
        Y,
        directions=analysis.TrajectoryPlane(tmp_path / "a" / "b"),
        num_points=2,
        verbose=0,
    )
    assert found.path_labels == ("0", "1", "2", "3", "now")
    np.testing.assert_allclose(found.path[3:], 0.0, atol=1e-6)


def test_every_second_epoch(tmp_path):
    fit(callbacks.TrajectoryRecorder(tmp_path, every=2), epochs=5)
    assert names(tmp_path) == files(0, 2, 4)


def test_training_that_goes_on_keeps_what_was_before(tmp_path):
    recorder = callbacks.TrajectoryRecorder(tmp_path)
    model, _ = fit(recorder, epochs=4)
    before = {name: arrays_in(tmp_path / name) for name in names(tmp_path)}
    model.set_weights([np.zeros_like(w) for w in weights_of(model)])
    fit(recorder, model=model, epochs=3, initial_epoch=2)
    assert names(tmp_path) == files(0, 1, 2, 3)
    for name in files(0, 1):
        assert_equal(arrays_in(tmp_path / name), before[name])
    assert not np.any(arrays_in(tmp_path / files(2)[0])[0])
    # From the start again, nothing stays.
    fit(recorder, model=model, epochs=1)
    assert names(tmp_path) == files(0, 1)


def test_files_of_others_are_left_alone(tmp_path):
    others = ["weights_best.npz", "weights_5.npz", "weights_000001.h5"]
    for name in others:
        np.savez(tmp_path / "other.npz", np.ones(3))
        (tmp_path / "other.npz").rename(tmp_path / name)
    fit(callbacks.TrajectoryRecorder(tmp_path), epochs=1)
    assert names(tmp_path) == sorted([*others, *files(0, 1)])
    assert len(analysis.TrajectoryPlane(tmp_path).trajectory) == 2


def test_a_file_is_complete_or_not_there(tmp_path, monkeypatch):
    recorder = callbacks.TrajectoryRecorder(tmp_path)
    write = np.savez

    def fail_at_last(file, **arrays):
        write(file, **arrays)
        if np.any(arrays["0"] != first):
            raise OSError("No space left on device")

    model = small()
    first = weights_of(model)[0]
    monkeypatch.setattr(np, "savez", fail_at_last)
    with pytest.raises(OSError, match="No space left"):
        fit(recorder, model=model)
    found = [path for path in names(tmp_path) if path.startswith("weights")]
    assert found == files(0)
    assert_equal(arrays_in(tmp_path / found[0])[:1], [first])


def test_weights_of_16_bits(tmp_path):
    keras.config.set_dtype_policy("bfloat16")
    model = small()
    keras.config.set_dtype_policy("float32")
    weights = Weights()
    fit(weights, callbacks.TrajectoryRecorder(tmp_path), model=model)
    plane = analysis.TrajectoryPlane(tmp_path)
    for epoch in range(-1, 2):
        for ours, theirs in zip(
            plane.trajectory[epoch + 1], weights.kept[epoch], strict=True
        ):
            np.testing.assert_array_equal(
                np.asarray(ours, "float32"), theirs.astype("float32")
            )
    found = analysis.loss_landscape(
        model, X, Y, directions=plane, num_points=2, verbose=0
    )
    assert np.isfinite(found.losses).all()


def test_bad_arguments_of_the_recorder(tmp_path):
    with pytest.raises(TypeError, match="`directory` must be"):
        callbacks.TrajectoryRecorder(None)
    with pytest.raises(TypeError, match="`directory` must be"):
        callbacks.TrajectoryRecorder(3)
    with pytest.raises(ValueError, match="`every` must be"):
        callbacks.TrajectoryRecorder(tmp_path, every=0)
    with pytest.raises(TypeError, match="`every` must be"):
        callbacks.TrajectoryRecorder(tmp_path, every=1.5)
