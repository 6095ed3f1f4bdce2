"""Callbacks of Keras that write files while the wrapper is trained."""

import csv

import keras
import numpy as np
import pytest
from keras import callbacks

from keras_lwsam import LWSAMModel, selection
from tests.interrupted import assert_same, everything
from tests.keras_callbacks import (
    STEPS,
    X,
    Y,
    at_epoch_ends,
    build,
    fit,
    summaries,
)
from tests.support import assert_equal, cross_entropy, weights_of


def test_csv_logger(tmp_path):
    """The file holds what `History` holds, and may go on."""
    path = tmp_path / "log.csv"
    model = build()
    first = fit(model, callbacks.CSVLogger(path), epochs=2, validate=True)
    again = callbacks.CSVLogger(path, append=True)
    rest = fit(model, again, epochs=3, initial_epoch=2, validate=True)
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row.pop("epoch")) for row in rows] == [0, 1, 2]
    names = {"loss", "val_loss", "sharpness", "gradient_norm"}
    for name in names:
        values = first.history[name] + rest.history[name]
        np.testing.assert_allclose(
            [float(row[name]) for row in rows], values, rtol=1e-12
        )
    assert set(rows[0]) == set(first.history) == names


def growing_rates():
    """So that the last epoch is not the best one."""
    return callbacks.LearningRateScheduler(lambda epoch: 10.0**epoch / 10)


@pytest.mark.parametrize("monitor", ["sharpness", "val_loss"])
def test_model_checkpoint_of_the_best_epoch(monitor, tmp_path):
    """A file is the wrapper, as it was at the end of that epoch."""
    path = tmp_path / "best.keras"
    best = callbacks.ModelCheckpoint(
        path, monitor=monitor, mode="min", save_best_only=True
    )
    model = build(method="vasso")
    watch, weights = at_epoch_ends(lambda: weights_of(model))
    history = fit(model, growing_rates(), watch, best, validate=True).history
    epoch = int(np.argmin(history[monitor]))
    assert epoch < 3
    loaded = keras.saving.load_model(path)
    assert isinstance(loaded, LWSAMModel)
    assert_equal(weights_of(loaded), weights[epoch])
    loaded.fit(X, Y, verbose=0)


def test_model_checkpoint_of_weights(tmp_path):
    """A file of each epoch goes into a new wrapper of the same kind."""
    model = build()
    watch, weights = at_epoch_ends(lambda: weights_of(model))
    save = callbacks.ModelCheckpoint(
        tmp_path / "{epoch}.weights.h5", save_weights_only=True
    )
    fit(model, watch, save, epochs=2)
    other = build()
    other.optimizer.build(other.trainable_variables)
    for epoch, expected in enumerate(weights, start=1):
        other.load_weights(tmp_path / f"{epoch}.weights.h5")
        assert_equal(weights_of(other), expected)


def test_backup_and_restore(tmp_path):
    """What was interrupted goes on bit for bit, with the same selection."""
    rule = selection.LargestGradientNorm(1)
    whole, part, again = (build(method="vasso", layers=rule) for _ in range(3))
    fit(whole)

    def interrupt(epoch, logs):
        if epoch == 2:
            raise KeyboardInterrupt

    stop = callbacks.LambdaCallback(on_epoch_begin=interrupt)
    with pytest.raises(KeyboardInterrupt):
        fit(part, callbacks.BackupAndRestore(tmp_path / "backup"), stop)
    again.model.set_weights([w + 1.0 for w in again.model.get_weights()])
    backup = callbacks.BackupAndRestore(tmp_path / "backup")
    assert fit(again, backup).epoch == [2, 3]
    assert_same(everything(again), everything(whole))


def test_tensorboard(tmp_path):
    """Scalars of epochs and batches, and histograms of the network."""
    board = callbacks.TensorBoard(tmp_path, histogram_freq=1, update_freq=1)
    model = build()
    history = fit(model, board, epochs=2, validate=True).history
    train = summaries(tmp_path / "train")
    validation = summaries(tmp_path / "validation")
    for name, values in history.items():
        found = validation if name.startswith("val_") else train
        written = found[f"epoch_{name.removeprefix('val_')}"]
        expected = dict(enumerate(np.float32(values)))
        assert written == expected
    assert set(train["batch_sharpness"]) == set(range(1, 1 + 2 * STEPS))
    histograms = {
        tag.removesuffix("/histogram")
        for tag in train
        if tag.endswith("/histogram")
    }
    weights = model.model.weights
    # Keras 3.12 has one tag for all weights of a name.
    tags = [{w.path for w in weights}, {w.name for w in weights}]
    assert histograms in tags


def variables_of(model):
    """Those of the network and of the optimizer, and the layers' norms."""
    return [
        *weights_of(model.model),
        *map(np.array, model.optimizer.variables),
        np.array(list(model.layer_gradient_norms.values())),
    ]


if hasattr(callbacks, "OrbaxCheckpoint"):

    @pytest.mark.peers
    def test_orbax_checkpoint(tmp_path):
        """Weights, optimizer and norms of the best epoch.

        Of a functional network: Keras 3.15 finds the variables by their paths,
        and those of a `Sequential` are others when it was loaded.
        """
        best = callbacks.OrbaxCheckpoint(
            tmp_path,
            monitor="sharpness",
            mode="min",
            save_best_only=True,
            save_on_background=False,
        )
        inputs = keras.Input((10,))
        outputs = keras.layers.Dense(4)(keras.layers.Dense(6)(inputs))
        model = LWSAMModel(keras.Model(inputs, outputs), layers=1)
        model.compile("adam", cross_entropy(), run_eagerly=True)
        watch, seen = at_epoch_ends(lambda: variables_of(model))
        history = fit(model, growing_rates(), watch, best).history
        epoch = int(np.argmin(history["sharpness"]))
        assert epoch < 3
        loaded = keras.saving.load_model(tmp_path)
        assert isinstance(loaded, LWSAMModel)
        assert_equal(variables_of(loaded), seen[epoch])
