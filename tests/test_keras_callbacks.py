"""Callbacks of Keras that steer the training of the wrapper, or look on.

Those that write are in test_keras_callbacks_that_write.py.
"""

import json

import keras
import numpy as np
import pytest
import requests
from keras import callbacks

from keras_lwsam import selection
from tests.keras_callbacks import STEPS, X, at_epoch_ends, build, fit
from tests.support import (
    assert_close,
    assert_equal,
    distance,
    momentum_sgd,
    weights_of,
)

# Nothing is an improvement by so much but the first epoch.
NEVER_AGAIN = {"mode": "min", "min_delta": 10.0}


class Watch(callbacks.Callback):
    """Notes when it is called, and with what logs."""

    def __init__(self, stop_in=None):
        super().__init__()
        self.calls, self.logs, self.stop_in = [], [], stop_in

    def on_train_begin(self, logs=None):
        self.calls.append("train")

    def on_epoch_begin(self, epoch, logs=None):
        self.calls.append("epoch")

    def on_train_batch_end(self, batch, logs=None):
        self.calls.append("batch")
        self.logs.append(dict(logs))

    def on_epoch_end(self, epoch, logs=None):
        self.logs.append(dict(logs))
        if epoch == self.stop_in:
            self.model.stop_training = True


def test_callback():
    model, watch = build(), Watch(stop_in=1)
    history = fit(model, watch)
    assert watch.model is model
    assert watch.params["steps"] == STEPS
    assert watch.params["epochs"] == 4
    assert watch.calls == ["train", *["epoch", "batch", "batch"] * 2]
    for logs in watch.logs:
        assert set(logs) == {"loss", "sharpness", "gradient_norm"}
    assert history.epoch == [0, 1]


def test_callback_list():
    model, watch = build(), Watch()
    rule = callbacks.CallbackList(
        [watch], add_history=True, model=model, epochs=2, steps=STEPS
    )
    model.fit(X, np.zeros(32), callbacks=rule, epochs=2, batch_size=16)
    assert watch.calls == ["train", *["epoch", "batch", "batch"] * 2]
    assert len(model.history.history["sharpness"]) == 2


def test_history():
    """What `fit` returns, and a callback of one's own, hold the same."""
    model, own = build(), callbacks.History()
    seen, losses = at_epoch_ends(lambda: model.get_metrics_result()["loss"])
    history = fit(model, own, seen, epochs=2)
    assert history is model.history
    assert history.history == own.history
    assert set(own.history) == {"loss", "sharpness", "gradient_norm"}
    assert own.history["loss"] == [float(loss) for loss in losses]


def test_lambda_callback():
    seen = []
    callback = callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: seen.append(logs["sharpness"]),
        on_train_end=lambda logs: seen.append("end"),
    )
    history = fit(build(), callback, epochs=2).history
    assert seen == [*history["sharpness"], "end"]
    assert min(history["sharpness"]) > 0.0


def test_progbar_logger(capsys):
    history = fit(build(), epochs=2, verbose=2).history
    printed = capsys.readouterr().out
    for name, values in history.items():
        for value in values:
            assert f"{name}: {value:.4f}" in printed


@pytest.mark.parametrize("monitor", ["loss", "sharpness"])
def test_early_stopping(monitor):
    """With the weights of the best epoch in the end."""
    model = build()
    watch, weights = at_epoch_ends(lambda: weights_of(model.model))
    stop = callbacks.EarlyStopping(
        monitor, patience=2, restore_best_weights=True, **NEVER_AGAIN
    )
    history = fit(model, watch, stop, epochs=5)
    assert history.epoch == [0, 1, 2]
    assert stop.stopped_epoch == 2
    assert_equal(weights_of(model.model), weights[0])
    assert distance(weights[0], weights[2]) > 0.0


def test_early_stopping_needs_a_mode_for_sharpness():
    """Keras knows the direction of those metrics alone that are compiled."""
    with pytest.raises(ValueError, match=r"monitor=sharpness.*mode='min'"):
        fit(build(), callbacks.EarlyStopping("sharpness"))
    model = build()
    model.compile("sgd", model.loss, metrics=["accuracy"], run_eagerly=True)
    stop = callbacks.EarlyStopping("val_accuracy", patience=1, min_delta=1.0)
    assert fit(model, stop, validate=True).epoch == [0, 1]


def test_learning_rate_scheduler():
    model = build(optimizer=keras.optimizers.SGD(0.1))
    watch, weights = at_epoch_ends(lambda: weights_of(model.model))
    rates = [0.1, 0.0, 0.05]
    scheduler = callbacks.LearningRateScheduler(lambda epoch: rates[epoch])
    history = fit(model, scheduler, watch, epochs=3).history
    np.testing.assert_allclose(history["learning_rate"], rates)
    assert_equal(weights[1], weights[0])
    assert distance(weights[2], weights[1]) > 0.0


@pytest.mark.parametrize("monitor", ["loss", "sharpness"])
def test_reduce_lr_on_plateau(monitor):
    rule = callbacks.ReduceLROnPlateau(
        monitor, factor=0.5, patience=1, **NEVER_AGAIN
    )
    model = build()
    history = fit(model, rule, epochs=4).history
    expected = [0.1, 0.1, 0.05, 0.025]
    np.testing.assert_allclose(history["learning_rate"], expected)
    assert float(model.optimizer.learning_rate) == pytest.approx(0.0125)


def averages(model):
    """The moving averages of the weights, from the optimizer."""
    return [
        np.array(variable)
        for variable in model.optimizer.variables
        if "average" in variable.path
    ]


def test_swap_ema_weights():
    """The averages are in the network when an epoch ends, and after `fit`."""

    def build_with_averages():
        return build(optimizer=momentum_sgd(use_ema=True, ema_momentum=0.8))

    plain = build_with_averages()
    watch, expected = at_epoch_ends(lambda: averages(plain))
    fit(plain, watch)
    model = build_with_averages()
    swap = callbacks.SwapEMAWeights(swap_on_epoch=True)
    watch, weights = at_epoch_ends(lambda: weights_of(model.model))
    fit(model, swap, watch, validate=True)
    assert len(weights) == 4
    # Keras swaps by adding and subtracting, which rounds.
    for seen, average in zip(weights, expected, strict=True):
        assert_close(seen, average, 1e-6)
    assert distance(weights[1], weights[0]) > 1e-3
    assert_close(weights_of(model.model), weights_of(plain.model), 1e-6)
    assert_close(weights_of(model.model), expected[-1], 1e-6)


def test_terminate_on_nan():
    """In the batch after which the loss is not a number."""
    x = X.copy()
    x[17] = np.nan
    model = build(layers=selection.OutputSide(1))
    watch = Watch()
    history = fit(model, callbacks.TerminateOnNaN(), watch, x=x)
    assert history.epoch == [0]
    assert int(model.optimizer.iterations) == 2
    assert np.isfinite(watch.logs[0]["loss"])
    assert np.isnan(history.history["loss"]).all()


@pytest.mark.parametrize("send_as_json", [False, True])
def test_remote_monitor(send_as_json, monkeypatch):
    """What is posted is what `History` holds."""
    posted = []

    def post(url, data=None, json=None, headers=None):
        posted.append((url, data, json))

    monkeypatch.setattr(requests, "post", post)
    monitor = callbacks.RemoteMonitor(
        "http://monitor", "/epochs", send_as_json=send_as_json
    )
    history = fit(build(), monitor, epochs=2).history
    assert len(posted) == 2
    for epoch, (url, data, sent) in enumerate(posted):
        sent = sent if send_as_json else json.loads(data["data"])
        logs = {name: values[epoch] for name, values in history.items()}
        assert sent == {"epoch": epoch, **logs}
        assert url == "http://monitor/epochs"
