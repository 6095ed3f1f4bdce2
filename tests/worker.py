"""One of several workers: trains some cases and writes down what came of it.

`python -m tests.worker OUTPUT NAME...`, with TF_CONFIG set.
"""

import sys

import keras
import numpy as np
import tensorflow as tf

from keras_lwsam import LWSAMModel
from tests.cases import CASES
from tests.support import cross_entropy, dense_network, momentum_sgd

X = np.random.default_rng(0).normal(size=(48, 10)).astype("float32")
Y = np.random.default_rng(1).integers(0, 4, 48)


def arguments(name):
    """Those of `LWSAMModel` for a case; "apart" and "default" are SAM."""
    if name == "apart":
        return {"layers": "all", "rho": 0.1}
    if name == "default":
        return {"layers": 1, "rho": 0.1, "sync_perturbation": True}
    return {
        "method": CASES[name].make(),
        "layers": "all",
        "sync_perturbation": True,
    }


def train(strategy, name, **options):
    """The model of a case, trained for two epochs, and its logs."""
    keras.utils.set_random_seed(2)
    with strategy.scope():
        model = LWSAMModel(dense_network(), **arguments(name))
        model.compile(
            momentum_sgd(), cross_entropy(), metrics=["accuracy"], **options
        )
    history = model.fit(
        X,
        Y,
        batch_size=16,
        epochs=2,
        shuffle=False,
        verbose=0,
        validation_data=(X, Y),
    ).history
    return model, history


def outcome(model, history):
    """Everything to compare, as arrays by name."""
    return {
        **{f"w{i}": w for i, w in enumerate(model.model.get_weights())},
        **{f"log_{name}": values for name, values in history.items()},
        "selected": [model.layer_paths.index(p) for p in model.selected_layers],
        "norms": list(model.layer_gradient_norms.values()),
        "predictions": model.predict(X[:8], batch_size=4, verbose=0),
        "traces": model.trace_count,
    }


def main(output, *names):
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    index = strategy.cluster_resolver.task_id
    for name in names:
        # Which Keras refuses on replicas of one machine.
        options = {"steps_per_execution": 2} if name == "default" else {}
        found = outcome(*train(strategy, name, **options))
        np.savez(f"{output}/{name}_{index}.npz", **found)


if __name__ == "__main__":
    main(*sys.argv[1:])
