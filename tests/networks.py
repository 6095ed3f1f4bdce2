"""Networks of every kind, each with data: builders of `(network, x, y)`."""

import keras
import numpy as np
from keras import layers, ops

from tests.support import (
    dense_network,
)

RNG = np.random.default_rng(0)


def vectors(count=12, size=5):
    return RNG.normal(size=(count, size)).astype("float32")


def tokens(count=12, length=6):
    return RNG.integers(0, 20, (count, length))


def labels(count=12):
    return RNG.integers(0, 3, count)


@keras.saving.register_keras_serializable(package="tests")
class Subclassed(keras.Model):
    """A model by subclassing, with a weight and an add_loss of its own."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.hidden = layers.Dense(6, activation="relu", name="hidden")
        self.logits = layers.Dense(3, name="logits")
        self.scale = self.add_weight(shape=(), initializer="ones", name="scale")

    def call(self, inputs, training=False):
        hidden = self.hidden(inputs)
        self.add_loss(1e-2 * ops.sum(ops.square(hidden)))
        return self.logits(hidden) * self.scale


def subclassed():
    network = Subclassed(name="subclassed")
    network(vectors())
    return network, vectors(), labels()


def nested():
    inner = keras.Sequential(
        [keras.Input((5,)), layers.Dense(6, activation="relu", name="dense")],
        name="inner",
    )
    inputs = keras.Input((5,))
    outputs = layers.Dense(3, name="dense")(inner(inputs))
    return keras.Model(inputs, outputs), vectors(), labels()


def shared_layer():
    inputs = keras.Input((5,))
    shared = layers.Dense(5, activation="tanh", name="shared")
    outputs = layers.Dense(3)(shared(shared(inputs)))
    return keras.Model(inputs, outputs), vectors(), labels()


def two_inputs_as_dict():
    inputs = {
        "a": keras.Input((5,), name="a"),
        "b": keras.Input((5,), name="b"),
    }
    x = layers.Concatenate()([inputs["a"], inputs["b"]])
    outputs = layers.Dense(3)(layers.Dense(4, activation="relu")(x))
    data = {"a": vectors(), "b": vectors()}
    return keras.Model(inputs, outputs), data, labels()


def spectral_normalization():
    network = keras.Sequential(
        [
            keras.Input((5,)),
            layers.SpectralNormalization(
                layers.Dense(6, activation="relu"), name="spectral"
            ),
            layers.Dense(3),
        ]
    )
    return network, vectors(), labels()


def embedding():
    network = keras.Sequential(
        [
            keras.Input((6,), dtype="int32"),
            layers.Embedding(20, 4, name="embedding"),
            layers.GlobalAveragePooling1D(),
            layers.Dense(3, name="logits"),
        ]
    )
    return network, tokens(), labels()


def masked_lstm():
    network = keras.Sequential(
        [
            keras.Input((6,), dtype="int32"),
            layers.Embedding(20, 4, mask_zero=True),
            layers.LSTM(5, dropout=0.2, seed=1),
            layers.Dense(3),
        ]
    )
    return network, tokens(), labels()


def attention():
    inputs = keras.Input((6,), dtype="int32")
    x = layers.Embedding(20, 8)(inputs)
    x = layers.MultiHeadAttention(2, 4, name="attention")(x, x)
    x = layers.LayerNormalization()(x)
    outputs = layers.Dense(3)(layers.GlobalAveragePooling1D()(x))
    return keras.Model(inputs, outputs), tokens(), labels()


def weight_without_gradient():
    class Idle(layers.Layer):
        def build(self, input_shape):
            self.idle = self.add_weight(shape=(3,), name="idle")

        def call(self, inputs):
            return inputs

    network = keras.Sequential(
        [keras.Input((5,)), layers.Dense(4), Idle(), layers.Dense(3)]
    )
    return network, vectors(), labels()


def frozen_part():
    network = dense_network(sizes=(5, 6, 6, 3))
    network.get_layer("dense2").trainable = False
    return network, vectors(), labels()


def unseeded_noise():
    network = keras.Sequential(
        [
            keras.Input((5,)),
            layers.Dense(6),
            layers.GaussianNoise(0.3),
            layers.Dropout(0.3),
            layers.Dense(3),
        ]
    )
    return network, vectors(), labels()


def no_training_argument():
    class Plain(keras.Model):
        def __init__(self):
            super().__init__()
            self.drop = layers.Dropout(0.5)
            self.logits = layers.Dense(3)

        def call(self, inputs):
            return self.logits(self.drop(inputs))

    network = Plain()
    network(vectors())
    return network, vectors(), labels()


NETWORKS = [
    subclassed,
    nested,
    shared_layer,
    two_inputs_as_dict,
    spectral_normalization,
    embedding,
    masked_lstm,
    attention,
    weight_without_gradient,
    frozen_part,
    unseeded_noise,
    no_training_argument,
]


def built_twice(make):
    """The same network twice, and its data."""
    global RNG
    made = []
    for _ in range(2):
        RNG = np.random.default_rng(0)
        keras.utils.set_random_seed(0)
        made.append(make())
    (network, x, y), (twin, _, _) = made
    return network, twin, x, y
