"""Networks, data and comparisons that several tests use."""

import functools

import keras
import numpy as np
from keras import layers

from keras_lwsam import LWSAMModel

BACKEND = keras.backend.backend()

MODES = {
    "graph": {},
    "xla": {"jit_compile": True},
    "eager": {"run_eagerly": True},
}
if BACKEND != "tensorflow":
    # JAX compiles by XLA or not at all, and PyTorch does not compile.
    del MODES["xla"]
XLA = "xla" if "xla" in MODES else "graph"


def convolutional_network(seed=0, dropout=0.2, l2=1e-3):
    """Convolutions, BatchNorm, dropout, regularizers, dense layers."""
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((6, 6, 2))
    x = inputs
    for block in (1, 2):
        x = layers.Conv2D(
            4,
            3,
            padding="same",
            kernel_regularizer=l2 and keras.regularizers.L2(l2),
            name=f"conv{block}",
        )(x)
        x = layers.BatchNormalization(name=f"norm{block}")(x)
        x = layers.ReLU()(x)
        # PyTorch would draw from a generator that is no variable.
        x = layers.Dropout(dropout, seed=block)(x)
    x = layers.GlobalAveragePooling2D()(x)
    x = layers.Dense(8, activation="tanh", name="hidden")(x)
    outputs = layers.Dense(3, name="logits")(x)
    return keras.Model(inputs, outputs, name="convolutional")


def dense_network(seed=0, sizes=(10, 16, 8, 4)):
    """Three dense layers with tanh between them."""
    keras.utils.set_random_seed(seed)
    network = keras.Sequential([keras.Input(sizes[:1])], name="dense")
    for i, size in enumerate(sizes[1:], start=1):
        last = i == len(sizes) - 1
        network.add(
            layers.Dense(
                size, activation=None if last else "tanh", name=f"dense{i}"
            )
        )
    return network


def image_data(count=50, seed=0):
    """Random images for `convolutional_network` with labels."""
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(count, 6, 6, 2)).astype("float32")
    return x, generator.integers(0, 3, count)


def cross_entropy():
    """The loss of classifiers that return logits."""
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def momentum_sgd(learning_rate=0.1, **kwargs):
    """SGD with momentum."""
    return keras.optimizers.SGD(learning_rate, momentum=0.9, **kwargs)


def train_on_batch(model, x, y):
    """Logs of one step; Keras 3.12 goes on averaging over steps otherwise."""
    model.reset_metrics()
    return model.train_on_batch(x, y, return_dict=True)


def weights_of(model):
    """All weights, copied."""
    return [w.copy() for w in model.get_weights()]


def assert_equal(actual, expected):
    """Lists of arrays equal bit for bit."""
    assert len(actual) == len(expected)
    for a, e in zip(actual, expected, strict=True):
        np.testing.assert_array_equal(a, e)


def assert_close(actual, expected, tolerance=1e-6):
    """Lists of arrays equal within an absolute tolerance."""
    assert len(actual) == len(expected)
    for a, e in zip(actual, expected, strict=True):
        np.testing.assert_allclose(a, e, rtol=0, atol=tolerance)


def distance(actual, expected):
    """Largest absolute difference between two lists of arrays."""
    return max(
        float(np.abs(a - e).max())
        for a, e in zip(actual, expected, strict=True)
    )


@functools.cache
def mirrored():
    """One for all tests: TensorFlow counts its collectives by strategy, and
    confuses those of two strategies in one process.
    """
    import tensorflow as tf

    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])


@functools.cache
def replicas(count):
    """So many, which reduce without collectives, and so also eagerly."""
    import tensorflow as tf

    return tf.distribute.MirroredStrategy(
        [f"CPU:{i}" for i in range(count)],
        cross_device_ops=tf.distribute.ReductionToOneDevice(),
    )


def build_dense(
    method="sam", layers="all", optimizer=None, mode=None, **kwargs
):
    """A compiled `LWSAMModel` of `dense_network`."""
    model = LWSAMModel(dense_network(), method, layers=layers, **kwargs)
    model.compile(optimizer or momentum_sgd(), cross_entropy(), **(mode or {}))
    return model
