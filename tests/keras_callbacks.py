"""A little training for the callbacks of Keras."""

import pathlib

import keras
import numpy as np
import tensorflow as tf

from tests.support import build_dense

GENERATOR = np.random.default_rng(0)
X = GENERATOR.normal(size=(32, 10)).astype("float32")
Y = GENERATOR.integers(0, 4, 32)
STEPS = 2


def build(**kwargs):
    """A compiled `LWSAMModel` whose steps run eagerly."""
    return build_dense(mode={"run_eagerly": True}, **{"layers": 2, **kwargs})


def fit(model, *watchers, epochs=4, x=X, validate=False, **options):
    """Trains in the order of the data. Returns Keras's `History`."""
    return model.fit(
        x,
        Y,
        batch_size=len(X) // STEPS,
        epochs=epochs,
        callbacks=list(watchers),
        validation_data=(X, Y) if validate else None,
        **{"shuffle": False, "verbose": 0, **options},
    )


def at_epoch_ends(function):
    """Calls a function of nothing at each end of an epoch.

    Returns:
        A callback, and the list of what the function gave.
    """
    seen = []
    callback = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: seen.append(function())
    )
    return callback, seen


def summaries(folder):
    """What event files hold: a dict from tag to a dict from step to value."""
    found = {}
    for file in pathlib.Path(folder).glob("events*"):
        for record in tf.data.TFRecordDataset(str(file)):
            event = tf.compat.v1.Event.FromString(record.numpy())
            for value in event.summary.value:
                array = tf.make_ndarray(value.tensor)
                found.setdefault(value.tag, {})[event.step] = array
    return found
