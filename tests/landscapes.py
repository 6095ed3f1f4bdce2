"""Landscapes of small networks, for their tests."""

import keras
from keras import layers

from keras_lwsam import analysis
from tests.curvature import (
    compiled,
    normalizing_network,
    random,
    vector_data,
)
from tests.support import (
    cross_entropy,
    weights_of,
)


def line(size=3, **compilation):
    """A linear model of `size` weights and a bias, and its data."""
    network = keras.Sequential([keras.Input((size,)), layers.Dense(1)])
    return (
        compiled(network, **compilation),
        random(9, size),
        random(9, 1, seed=1),
    )


def classifier(seed=0):
    """A network whose moving statistics are its own, and its data."""
    network = compiled(normalizing_network(seed), cross_entropy())
    x, y = vector_data()
    network.fit(x, y, batch_size=4, verbose=0)
    return network, x, y


def landscape(*data, **kwargs):
    return analysis.loss_landscape(*data, **{"verbose": 0, **kwargs})


def loss_with(model, weights, x, y):
    """The loss at other weights, which are put in and taken out again."""
    kept = weights_of(model)
    model.set_weights(weights)
    loss = model.evaluate(x, y, verbose=0)
    model.set_weights(kept)
    return loss
