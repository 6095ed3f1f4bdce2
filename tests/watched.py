"""Little trainings for the callbacks that watch them."""

import csv

import keras
import numpy as np

from keras_lwsam import LWSAMModel, callbacks
from tests.support import (
    cross_entropy,
    dense_network,
    momentum_sgd,
    weights_of,
)

PATHS = ["dense/dense1", "dense/dense2"]
X = np.random.default_rng(0).normal(size=(24, 3)).astype("float32")
Y = np.arange(24) % 3
FEW = {"num_noise_samples": 2, "num_trace_samples": 2}
# Nothing that takes long.
LITTLE = {"num_noise_samples": 0, "num_eigenvalues": 0, "num_trace_samples": 0}


def tracking(**kwargs):
    return callbacks.SharpnessTracker(X[:12], Y[:12], **kwargs)


def small(wrap=False, run_eagerly=True, width=2):
    """With 17 weights, a Hessian that is written out; from 3 on, iterated."""
    model = dense_network(sizes=(3, width, 3))
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
