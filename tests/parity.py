"""Trains each method from the same start, in whatever backend there is.

`python -m tests.parity train FOLDER` writes the weights after some steps, a
file for each method, and some models amid them; `go_on`, the weights after
going on with the models that are there, whichever backend has left them.
"""

import pathlib
import sys

import keras
import numpy as np
from keras import layers

from keras_lwsam import LWSAMModel, methods
from tests import twins
from tests.cases import CASES

BATCHES, SIZE = 6, 8
GENERATOR = np.random.default_rng(11)
X = GENERATOR.normal(size=(BATCHES, SIZE, 6, 6, 2)).astype("float32")
Y = GENERATOR.integers(0, 3, (BATCHES, SIZE))

# Those that remember something, in each way.
MOVED = ("sampa", "look_sam", "vasso", "dynamic_sparse_sam")
METHODS = {name: case.make for name, case in CASES.items()}
METHODS["fisher_sparse_sam"] = lambda: methods.FisherSparseSAM(
    0.1, num_samples=4, refresh=3
)
METHODS["imbsam"] = lambda: methods.ImbSAM([30, 20, 5], 0.1)


def network():
    """Convolutions and BatchNorm, with weights that no backend draws."""
    model = keras.Sequential(
        [
            keras.Input((6, 6, 2)),
            layers.Conv2D(4, 3, padding="same", name="conv1"),
            layers.BatchNormalization(name="norm1"),
            layers.ReLU(name="relu1"),
            layers.Conv2D(4, 3, padding="same", name="conv2"),
            layers.BatchNormalization(name="norm2"),
            layers.ReLU(name="relu2"),
            layers.GlobalAveragePooling2D(name="pool"),
            layers.Dense(8, activation="tanh", name="hidden"),
            layers.Dense(3, kernel_regularizer="l2", name="logits"),
        ]
    )
    generator = np.random.default_rng(7)
    for variable in model.trainable_variables:
        if variable.name == "kernel":
            values = generator.normal(size=variable.shape, scale=0.4)
            variable.assign(values.astype("float32"))
    return model


def compiled(name):
    """A model at the start."""
    keras.utils.set_random_seed(3)
    model = LWSAMModel(network(), METHODS[name](), layers=["norm2", "hidden"])
    model.compile(
        keras.optimizers.SGD(0.1, momentum=0.9),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    return model


def train(model, begin, end):
    """Takes some steps; returns the weights of the network."""
    for x, y in zip(X[begin:end], Y[begin:end], strict=True):
        model.train_on_batch(x, y)
    return model.model.get_weights()


def with_common_draws():
    """Lets every backend draw the same numbers."""
    numbers = twins.Draws()

    def uniform(shape, minval=0.0, maxval=1.0, dtype="float32", seed=None):
        numbers.calls = seed.draw - 1
        values = numbers.uniform(tuple(int(size) for size in shape))
        values = minval + (maxval - minval) * values
        return keras.ops.convert_to_tensor(values, dtype)

    def normal(shape, mean=0.0, stddev=1.0, dtype="float32", seed=None):
        numbers.calls = seed.draw - 1
        values = numbers.normal(tuple(int(size) for size in shape))
        return keras.ops.convert_to_tensor(mean + stddev * values, dtype)

    keras.random.uniform, keras.random.normal = uniform, normal


def train_all(folder, backend):
    """Trains each method, and saves some amid it."""
    own = folder / backend
    own.mkdir()
    for name in METHODS:
        np.savez(own / f"{name}.npz", *train(compiled(name), 0, BATCHES))
        keras.utils.clear_session()
    for name in MOVED:
        model = compiled(name)
        train(model, 0, BATCHES // 2)
        model.save(folder / f"{name}_{backend}.keras")


def go_on(folder, backend):
    """Goes on with what was saved."""
    for path in sorted(folder.glob("*.keras")):
        weights = train(keras.saving.load_model(path), BATCHES // 2, BATCHES)
        np.savez(folder / backend / f"{path.stem}_moved.npz", *weights)


if __name__ == "__main__":
    with_common_draws()
    {"train": train_all, "go_on": go_on}[sys.argv[1]](
        pathlib.Path(sys.argv[2]), keras.backend.backend()
    )
