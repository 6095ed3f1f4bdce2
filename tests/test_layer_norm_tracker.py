"""`LayerNormTracker`: what it records, writes and draws."""

import csv

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_lwsam import LWSAMModel, callbacks, schedules, selection
from keras_lwsam.callbacks.layer_norm_tracker import COLUMNS, SCALARS
from tests.support import (
    assert_equal,
    convolutional_network,
    cross_entropy,
    image_data,
    momentum_sgd,
    weights_of,
)


def fit(tracker, epochs=3, wrap=True, **kwargs):
    model = convolutional_network(dropout=0.0)
    if wrap:
        model = LWSAMModel(model, **kwargs)
    model.compile(momentum_sgd(), cross_entropy())
    x, y = image_data(48)
    model.fit(
        x,
        y,
        batch_size=16,
        epochs=epochs,
        verbose=0,
        shuffle=False,
        callbacks=[] if tracker is None else [tracker],
    )
    return model


def test_history_has_a_row_a_layer_and_epoch():
    tracker = callbacks.LayerNormTracker()
    model = fit(tracker, layers=2)
    assert len(tracker.history) == 3 * 6
    assert all(tuple(row) == COLUMNS for row in tracker.history)
    last = tracker.history[-6:]
    assert [row["layer"] for row in last] == model.layer_paths
    assert [row["layer"] for row in last if row["selected"]] == (
        model.selected_layers
    )
    for row in last:
        norm = model.epoch_layer_gradient_norms[row["layer"]]
        assert row["gradient_norm"] == norm > 0.0
        weights = model.get_layer(row["layer"]).trainable_weights
        squares = sum(float((w.numpy() ** 2).sum()) for w in weights)
        assert row["weight_norm"] == pytest.approx(np.sqrt(squares), rel=1e-5)


def test_epoch_norm_is_the_root_mean_square_of_its_batches():
    tracker = callbacks.LayerNormTracker(every=1)
    fit(tracker, epochs=2, layers="all")
    rows = [r for r in tracker.history if r["layer"] == "conv1"]
    batches = [
        r["gradient_norm"]
        for r in rows
        if r["epoch"] == 1 and r["batch"] in (0, 1, 2)
    ]
    whole = [r for r in rows if r["epoch"] == 1 and r["batch"] is None]
    assert len(batches) == 3
    assert len(whole) == 1
    assert whole[0]["gradient_norm"] == pytest.approx(
        np.sqrt(np.mean(np.square(batches))), rel=1e-5
    )


def test_every_second_batch():
    tracker = callbacks.LayerNormTracker(every=2)
    fit(tracker, epochs=1)
    assert {r["batch"] for r in tracker.history} == {1, None}


def test_steps_without_perturbation_are_measured_while_attached():
    tracker = callbacks.LayerNormTracker()
    model = fit(tracker, rho=0.0)
    assert min(row["gradient_norm"] for row in tracker.history) > 0.0
    assert not any(row["selected"] for row in tracker.history)
    assert model.watched is False
    assert max(fit(None, rho=0.0).layer_gradient_norms.values()) == 0.0


def test_watching_changes_no_weight():
    seen = fit(callbacks.LayerNormTracker(every=1), layers=2)
    unseen = fit(None, layers=2)
    assert_equal(weights_of(seen.model), weights_of(unseen.model))


def test_csv_grows_with_training(tmp_path):
    path = tmp_path / "norms.csv"
    tracker = callbacks.LayerNormTracker(csv_path=path)
    fit(tracker)
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(tracker.history)
    for row, kept in zip(rows, tracker.history, strict=True):
        assert row["layer"] == kept["layer"]
        for column in SCALARS:
            assert row[column] == str(kept[column])
        assert row["batch"] == ""
        assert row["selected"] == str(kept["selected"])
    with open(tmp_path / "norms_model.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(tracker.model_history) == 3
    assert [float(r["gradient_norm"]) for r in rows] == [
        r["gradient_norm"] for r in tracker.model_history
    ]


def test_a_run_that_goes_on_goes_on_with_its_table(tmp_path):
    path = tmp_path / "norms.csv"
    model = convolutional_network(dropout=0.0)
    model = LWSAMModel(model, layers=1)
    model.compile(momentum_sgd(), cross_entropy(), run_eagerly=True)
    x, y = image_data(16)

    def train(begin, end):
        tracker = callbacks.LayerNormTracker(csv_path=path)
        model.fit(
            x,
            y,
            epochs=end,
            initial_epoch=begin,
            verbose=0,
            callbacks=[tracker],
        )
        with open(path, newline="") as file:
            return [int(row["epoch"]) for row in csv.DictReader(file)]

    assert train(0, 2) == 6 * [0] + 6 * [1]
    # A line that was cut off by the end of a process is left out.
    with open(path, "a") as file:
        file.write("1,,conv1,0.3")
    assert train(2, 3) == 6 * [0] + 6 * [1] + 6 * [2]
    # It went back to an earlier epoch, as after a backup of that.
    assert train(1, 2) == 6 * [0] + 6 * [1]
    assert train(0, 1) == 6 * [0]


def test_picture(tmp_path):
    path = tmp_path / "norms.png"
    tracker = callbacks.LayerNormTracker(every=1, plot_path=path)
    fit(tracker, epochs=4, layers=selection.OutputSide(2))
    assert path.read_bytes().startswith(b"\x89PNG")
    axes, colours = tracker.plot().axes
    assert "norm of each layer" in axes.get_title()
    assert "epoch" in axes.get_xlabel()
    assert "L2" in colours.get_ylabel()
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels == list(dict.fromkeys(r["layer"] for r in tracker.history))
    dots = {
        (float(x), float(y))
        for line in axes.lines
        for x, y in zip(*line.get_data(), strict=True)
    }
    assert dots == {(x, y) for x in range(4) for y in (4, 5)}


def test_nothing_to_draw_is_an_error():
    with pytest.raises(ValueError, match="nothing to draw"):
        callbacks.LayerNormTracker().plot()


def test_a_plain_model_shows_weight_norms(tmp_path):
    path = tmp_path / "norms.png"
    tracker = callbacks.LayerNormTracker(plot_path=path)
    fit(tracker, wrap=False)
    assert all(np.isnan(row["gradient_norm"]) for row in tracker.history)
    assert min(row["weight_norm"] for row in tracker.history) > 0.0
    assert path.exists()
    assert "Weight norm" in tracker.plot().axes[0].get_title()


def test_tensorboard_scalars(tmp_path):
    fit(callbacks.LayerNormTracker(log_dir=tmp_path), epochs=2)
    scalars = {}
    for file in tmp_path.iterdir():
        for record in tf.data.TFRecordDataset(str(file)):
            event = tf.compat.v1.Event.FromString(record.numpy())
            for value in event.summary.value:
                number = tf.make_ndarray(value.tensor)
                scalars.setdefault(value.tag, {})[event.step] = float(number)
    assert set(scalars["l2_norm/grad/conv1"]) == {0, 1}
    assert set(scalars["l2_norm/weight/logits"]) == {0, 1}
    assert scalars["l2_norm/grad/conv1"][1] > 0.0
    stems = {tag.removesuffix("/conv1") for tag in scalars}
    assert set(SCALARS.values()) - stems == set()
    for tag in ("l2_norm/grad", "l2_norm/update"):
        assert 0.0 < scalars[f"{tag}/conv1"][1] < scalars[tag][1]
    assert scalars["l2_ratio/update/conv1"][1] > 0.0
    # What is not known has no scalar, and is not 0.
    assert "cosine/clean_sharp/conv1" not in scalars
    assert 0.0 < scalars["cosine/clean_sharp/logits"][1] <= 1.0


def test_logs_have_every_scalar_at_every_epoch(tmp_path):
    """NaN where it is not known, or later columns would be lost."""
    model = LWSAMModel(
        convolutional_network(), layers=1, schedule=schedules.FromEpoch(1)
    )
    model.compile(momentum_sgd(), cross_entropy(), run_eagerly=True)
    x, y = image_data(16)
    path = tmp_path / "log.csv"
    behind = [
        callbacks.LayerNormTracker(add_to_logs=True),
        keras.callbacks.CSVLogger(path),
    ]
    history = model.fit(x, y, epochs=3, verbose=0, callbacks=behind).history
    assert {len(values) for values in history.values()} == {3}
    cosines = history["cosine/clean_sharp"]
    assert np.isnan(cosines).tolist() == [True, False, False]
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    assert float(rows[2]["cosine/clean_sharp"]) == cosines[2]


def test_other_columns_do_not_overwrite_what_was_measured(tmp_path):
    path = tmp_path / "norms.csv"
    path.write_text("epoch,layer,old\n0,a,1\n1,a,2\n2,a,3\n")
    tracker = callbacks.LayerNormTracker(csv_path=path)
    model = LWSAMModel(convolutional_network(), layers=1)
    model.compile(momentum_sgd(), cross_entropy(), run_eagerly=True)
    x, y = image_data(16)
    model.fit(x, y, initial_epoch=2, epochs=3, verbose=0, callbacks=[tracker])
    with open(path, newline="") as file:
        assert {row["epoch"] for row in csv.DictReader(file)} == {"2"}
    aside = tmp_path / "norms_until_epoch_2.csv"
    assert aside.read_text().startswith("epoch,layer,old\n0,a,1\n")


def test_other_loggers_see_the_scalars(tmp_path):
    tracker = callbacks.LayerNormTracker(add_to_logs=True)
    logged = tmp_path / "log.csv"

    class Later(keras.callbacks.Callback):
        """As those of Weights & Biases: logs what it finds in the logs."""

        seen = ()

        def on_epoch_end(self, epoch, logs=None):
            self.seen = dict(logs)

    later = Later()
    model = LWSAMModel(convolutional_network(), layers=1)
    model.compile(momentum_sgd(), cross_entropy(), run_eagerly=True)
    x, y = image_data(16)
    behind = [tracker, later, keras.callbacks.CSVLogger(logged)]
    history = model.fit(x, y, verbose=0, callbacks=behind).history
    norm = tracker.history[0]["gradient_norm"]
    assert later.seen["l2_norm/grad/conv1"] == norm
    assert history["l2_norm/grad/conv1"] == [norm]
    of_model = tracker.model_history[0]
    for column, tag in SCALARS.items():
        assert history[tag] == [of_model[column]]
    with open(logged, newline="") as file:
        (row,) = csv.DictReader(file)
    assert float(row["l2_norm/grad/conv1"]) == norm


def test_other_loggers_see_sharpness(tmp_path):
    """History, CSVLogger and early stopping take it as any metric."""
    network = convolutional_network()
    model = LWSAMModel(network, layers="all")
    model.compile(momentum_sgd(), cross_entropy())
    x, y = image_data(48)
    history = model.fit(
        x,
        y,
        epochs=4,
        verbose=0,
        validation_data=(x, y),
        callbacks=[
            keras.callbacks.CSVLogger(tmp_path / "log.csv"),
            keras.callbacks.EarlyStopping("sharpness", mode="min", patience=99),
        ],
    ).history
    assert set(history) == {"loss", "val_loss", "sharpness", "gradient_norm"}
    with open(tmp_path / "log.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(r["sharpness"]) for r in rows] == history["sharpness"]
    assert min(history["sharpness"]) > 0.0
    quiet = LWSAMModel(network, sharpness_metrics=False)
    quiet.compile(momentum_sgd(), cross_entropy())
    assert set(quiet.fit(x, y, verbose=0).history) == {"loss"}


def test_a_plain_model_that_fit_builds():
    model = keras.Sequential([keras.layers.Dense(3, name="late")], name="net")
    model.compile("sgd", "mse")
    tracker = callbacks.LayerNormTracker()
    model.fit(np.ones((8, 2)), np.ones((8, 3)), verbose=0, callbacks=[tracker])
    assert [row["layer"] for row in tracker.history] == ["net/late"]
