"""A radius of zero, or nothing to perturb, is `fit`: bit for bit."""

import keras
import pytest

from keras_lwsam import LWSAMModel, selection
from tests.support import (
    MODES,
    XLA,
    assert_equal,
    convolutional_network,
    cross_entropy,
    image_data,
    momentum_sgd,
    weights_of,
)

OPTIMIZERS = {
    "momentum": lambda: momentum_sgd(weight_decay=1e-3, clipnorm=1.0),
    "adamw": lambda: keras.optimizers.AdamW(
        keras.optimizers.schedules.CosineDecay(1e-2, 10),
        use_ema=True,
        global_clipnorm=1.0,
    ),
    "accumulating": lambda: keras.optimizers.SGD(
        0.1, gradient_accumulation_steps=2
    ),
    "loss_scaled": lambda: keras.optimizers.SGD(0.1, loss_scale_factor=1000.0),
}
NOTHING = {
    "rho": {"rho": 0.0},
    "gnp": {"method": "gnp", "rho": 0.0},
    "empty list": {"layers": []},
    "zero layers": {"layers": selection.OutputSide(0)},
}


def train(model, optimizer, **mode):
    x, y = image_data()
    model.compile(optimizer(), cross_entropy(), metrics=["accuracy"], **mode)
    keras.utils.set_random_seed(1)
    history = model.fit(
        x,
        y,
        batch_size=16,
        epochs=3,
        verbose=0,
        validation_data=(x, y),
        class_weight={0: 1.0, 1: 2.0, 2: 0.5},
    )
    optimizer_state = [v.numpy() for v in model.optimizer.variables]
    return history.history, optimizer_state


def assert_same_training(arguments, optimizer, **mode):
    plain, network = convolutional_network(), convolutional_network()
    expected = train(plain, optimizer, **mode)
    model = LWSAMModel(network, **arguments)
    actual = train(model, optimizer, **mode)
    assert_equal(weights_of(network), weights_of(plain))
    assert_equal(actual[1], expected[1])
    logs = actual[0]
    assert logs.pop("sharpness") == [0.0] * 3
    assert logs.pop("gradient_norm") == [0.0] * 3
    assert logs == expected[0]


@pytest.mark.parametrize("arguments", NOTHING.values(), ids=NOTHING)
def test_nothing_to_perturb_is_fit(arguments):
    assert_same_training(arguments, OPTIMIZERS["momentum"])


@pytest.mark.parametrize("mode", [XLA, "eager"])
def test_in_other_modes(mode):
    assert_same_training({"rho": 0.0}, OPTIMIZERS["momentum"], **MODES[mode])


@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_every_optimizer(optimizer):
    assert_same_training({"rho": 0.0}, optimizer)


@pytest.mark.not_torch
def test_several_steps_in_one_execution():
    assert_same_training(
        {"rho": 0.0}, OPTIMIZERS["momentum"], steps_per_execution=2
    )


def test_control_a_radius_above_zero_is_not_fit():
    plain, network = convolutional_network(), convolutional_network()
    train(plain, OPTIMIZERS["momentum"])
    train(LWSAMModel(network, rho=1e-3), OPTIMIZERS["momentum"])
    assert any(
        (a != b).any()
        for a, b in zip(weights_of(network), weights_of(plain), strict=True)
    )
