"""Methods: by name, by value, and programs that the library does not ship."""

import keras
import numpy as np
import pytest

from keras_lwsam import LWSAMModel, methods
from keras_lwsam._tensors import add, restrict, scale
from tests.support import (
    MODES,
    assert_close,
    cross_entropy,
    dense_network,
    weights_of,
)

X = np.random.default_rng(0).normal(size=(16, 10)).astype("float32")
Y = np.random.default_rng(1).integers(0, 4, 16)


@pytest.mark.parametrize("name", methods.NAMES)
def test_by_name(name):
    default = methods.get(name)
    assert default == methods.NAMES[name]()
    assert methods.get(name, rho=0.3).rho == 0.3
    assert default != methods.get(name, rho=0.3)
    assert hash(default) == hash(methods.get(name))
    config = keras.saving.serialize_keras_object(methods.get(name, 0.3))
    again = keras.saving.deserialize_keras_object(config)
    assert again == methods.get(name, 0.3)


def test_documented_defaults():
    assert methods.SAM().get_config() == {"rho": 0.05}
    assert methods.GNP().get_config() == {"rho": 0.1, "alpha": 0.8}


class Displacing(methods.SAM):
    """SAM that also pulls the perturbed weights towards zero, afterwards."""

    def update(self, step):
        pull = scale(restrict(step.values, step.selected), -0.5)
        return super().update(step)._replace(displacement=pull)


@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
def test_a_displacement_is_added_after_the_update(mode):
    ends, starts = [], []
    for method in (methods.SAM(), Displacing()):
        network = dense_network()
        starts.append(weights_of(network))
        model = LWSAMModel(network, method, layers="dense2")
        model.compile(keras.optimizers.SGD(0.1), cross_entropy(), **mode)
        model.train_on_batch(X, Y)
        ends.append(weights_of(network))
    plain, displaced = ends
    pulled = [
        w - 0.5 * s if i in (2, 3) else w
        for i, (w, s) in enumerate(zip(plain, starts[0], strict=True))
    ]
    assert_close(displaced, pulled, 1e-6)


class Thrice(methods.Method):
    """Two steps of ascent before the descent: three gradients."""

    def update(self, step):
        values = step.values
        for _ in range(2):
            climb = step.gradients(at=values, wrt=step.ascent)
            values = add(values, scale(climb.gradients, 0.1))
        sharp = step.gradients(at=values, wrt=step.weights)
        return methods.Update(gradients=sharp.gradients, state=step.state)

    def get_config(self):
        return {}


@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
def test_a_program_of_three_gradients(mode):
    import tensorflow as tf

    network, twin = dense_network(), dense_network()
    model = LWSAMModel(network, Thrice(), layers="all")
    model.compile(keras.optimizers.SGD(0.1), cross_entropy(), **mode)
    log = model.train_on_batch(X, Y, return_dict=True)

    def evaluate():
        with tf.GradientTape() as tape:
            loss = cross_entropy()(Y, twin(X, training=True))
        gradients = tape.gradient(loss, twin.trainable_variables)
        return float(loss), [g.numpy() for g in gradients]

    start = weights_of(twin)
    clean, gradient = evaluate()
    for _ in range(2):
        twin.set_weights(
            [
                w + 0.1 * g
                for w, g in zip(weights_of(twin), gradient, strict=True)
            ]
        )
        _, gradient = evaluate()
    expected = [w - 0.1 * g for w, g in zip(start, gradient, strict=True)]
    assert_close(weights_of(network), expected, 1e-6)
    assert log["loss"] == pytest.approx(clean, abs=1e-6)
    assert log["sharpness"] == 0.0
