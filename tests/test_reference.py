"""The step equals an independent one that mutates and restores."""

import keras
import numpy as np
import pytest

from keras_lwsam import LWSAMModel, methods, selection
from tests import reference
from tests.support import (
    MODES,
    assert_close,
    convolutional_network,
    cross_entropy,
    distance,
    image_data,
    momentum_sgd,
    train_on_batch,
    weights_of,
)

RHO = 0.1
SELECTIONS = {
    "all": ("all", lambda v: True),
    "head": (["hidden", "logits"], lambda v: v.path.split("/")[0] in HEAD),
    "middle": ("conv2", lambda v: v.path.startswith("conv2/")),
    "norms": (
        selection.ByType(keras.layers.BatchNormalization),
        lambda v: v.path.startswith("norm"),
    ),
    "kernels": (
        selection.KernelsOnly(selection.All()),
        lambda v: v.path.endswith("kernel"),
    ),
}
HEAD = ("hidden", "logits")


def batches(steps=5, size=16):
    x, y = image_data(steps * size)
    return [(x[i : i + size], y[i : i + size]) for i in range(0, len(x), size)]


def train(model, data, **mode):
    model.compile(momentum_sgd(), cross_entropy(), **mode)
    keras.utils.set_random_seed(1)
    return [train_on_batch(model, x, y) for x, y in data]


def compare(method, layers, is_selected, alpha, mode, **kwargs):
    norm_over_all = kwargs.get("perturbation_norm") == "all"
    network, twin = convolutional_network(), convolutional_network()
    data = batches()
    model = LWSAMModel(network, method, layers=layers, **kwargs)
    logs = train(model, data, **mode)
    expected = reference.train(
        twin,
        momentum_sgd(),
        cross_entropy(),
        data,
        jit_compile=mode.get("jit_compile", False),
        rho=RHO,
        is_selected=is_selected,
        alpha=alpha,
        norm_over_all=norm_over_all,
    )
    assert_close(weights_of(network), weights_of(twin), 1e-6)
    for log, (loss, sharp, norm, _) in zip(logs, expected, strict=True):
        assert log["loss"] == pytest.approx(loss, abs=1e-6)
        assert log["sharpness"] == pytest.approx(sharp - loss, abs=2e-6)
        assert log["gradient_norm"] == pytest.approx(norm, rel=1e-5)
    by_layer = {}
    for v, g in zip(twin.trainable_variables, expected[-1][3], strict=True):
        by_layer.setdefault(v.path.split("/")[0], []).append(g)
    for path, gradients in by_layer.items():
        assert model.layer_gradient_norms[path] == pytest.approx(
            reference.norm(gradients), rel=1e-4, abs=1e-6
        )


@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
@pytest.mark.parametrize("name", SELECTIONS)
def test_sam(name, mode):
    layers, is_selected = SELECTIONS[name]
    compare(methods.SAM(RHO), layers, is_selected, 1.0, mode)


@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
@pytest.mark.parametrize("name", ["all", "head", "kernels"])
def test_gnp(name, mode):
    layers, is_selected = SELECTIONS[name]
    compare(methods.GNP(RHO, alpha=0.7), layers, is_selected, 0.7, mode)


@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
@pytest.mark.parametrize("name", ["head", "norms"])
def test_norm_over_the_whole_network(name, mode):
    layers, is_selected = SELECTIONS[name]
    compare(
        methods.SAM(RHO),
        layers,
        is_selected,
        1.0,
        mode,
        perturbation_norm="all",
    )


def test_gnp_with_alpha_one_is_sam():
    networks = convolutional_network(), convolutional_network()
    chosen = (methods.GNP(RHO, alpha=1.0), methods.SAM(RHO))
    for network, method in zip(networks, chosen, strict=True):
        train(LWSAMModel(network, method, layers="all"), batches())
    assert_close(weights_of(networks[0]), weights_of(networks[1]), 1e-7)


def test_control_another_radius_gives_other_weights():
    networks = convolutional_network(), convolutional_network()
    for network, rho in zip(networks, (RHO, 2 * RHO), strict=True):
        train(LWSAMModel(network, rho=rho, layers="all"), batches())
    assert distance(weights_of(networks[0]), weights_of(networks[1])) > 1e-4


def test_only_selected_layers_are_perturbed():
    """The second pass sees the first pass's values in all other layers."""
    seen = []

    class Spy(keras.layers.Dense):
        def call(self, inputs, training=None):
            if training:
                seen.append(
                    (self.name, keras.ops.convert_to_numpy(self.kernel))
                )
            return super().call(inputs)

    network = keras.Sequential(
        [keras.Input((4,)), Spy(5, name="first"), Spy(3, name="second")]
    )
    model = LWSAMModel(network, layers="second", rho=RHO)
    model.compile(momentum_sgd(), cross_entropy(), run_eagerly=True)
    x = np.random.default_rng(0).normal(size=(8, 4))
    model.train_on_batch(x, np.arange(8) % 3)
    (n1, a1), (n2, a2), (n3, b1), (n4, b2) = seen
    assert (n1, n2, n3, n4) == ("first", "second", "first", "second")
    np.testing.assert_array_equal(a1, b1)
    assert 0.5 * RHO < np.linalg.norm(b2 - a2) <= RHO * 1.001
