"""Saving, restoring, going on."""

import keras
import numpy as np
import pytest

from keras_lwsam import LWSAMModel, methods, selection
from tests.backends import gradients_of, to_numpy
from tests.networks import Subclassed, subclassed
from tests.support import (
    assert_equal,
    convolutional_network,
    cross_entropy,
    dense_network,
    image_data,
    momentum_sgd,
    weights_of,
)


@keras.saving.register_keras_serializable(package="tests")
class Remembering(methods.TwoGradientMethod):
    """A method with memory: it climbs along an average of gradients."""

    def __init__(self, rho=0.05, decay=0.9):
        super().__init__(rho)
        self.decay = decay

    def initial_state(self, weights):
        return {
            "mean": [np.zeros(w.shape, w.dtype) for w in weights],
            "steps": np.zeros((), "float32"),
        }

    def perturb(self, step, gradients):
        state = step.state
        mean = [
            m if g is None else self.decay * m + (1 - self.decay) * g
            for m, g in zip(state["mean"], gradients, strict=True)
        ]
        epsilon = [
            None if g is None else self.rho * m
            for m, g in zip(mean, gradients, strict=True)
        ]
        return epsilon, {"mean": mean, "steps": state["steps"] + 1}


def make(method="sam", layers=None, **kwargs):
    model = LWSAMModel(convolutional_network(), method, layers=layers, **kwargs)
    model.compile(momentum_sgd(), cross_entropy(), metrics=["accuracy"])
    return model


def fit(model, until, begin=0):
    x, y = image_data(48)
    return model.fit(
        x,
        y,
        batch_size=16,
        epochs=until,
        initial_epoch=begin,
        verbose=0,
        shuffle=False,
    ).history


CASES = {
    "default": {},
    "every 4 steps": {"layers": selection.LargestGradientNorm(2, 4)},
    "random": {"layers": selection.Random(2, seed=1)},
    "kernels": {
        "method": methods.GNP(),
        "layers": selection.KernelsOnly(selection.LargestGradientNorm(2)),
    },
    "memory": {"method": Remembering(), "layers": selection.Random(3)},
    "all norms": {"layers": ["logits"], "perturbation_norm": "all"},
}


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(
            case,
            id=name,
            # What these add is small.
            marks=[pytest.mark.exhaustive] if name != "default" else [],
        )
        for name, case in CASES.items()
    ],
)
def test_stop_save_load_go_on(case, tmp_path):
    """Bit for bit the uninterrupted run: weights, logs, selection, norms."""
    whole, first = make(**case), make(**case)
    keras.utils.set_random_seed(5)
    logs = fit(whole, 4)
    keras.utils.set_random_seed(5)
    fit(first, 2)
    first.save(tmp_path / "run.keras")
    again = keras.saving.load_model(tmp_path / "run.keras")
    assert again.selected_layers == first.selected_layers
    assert again.layer_gradient_norms == first.layer_gradient_norms
    assert again.method == first.method
    assert again.selection == first.selection
    assert again.perturbation_norm == first.perturbation_norm
    rest = fit(again, 4, begin=2)
    assert_equal(weights_of(again), weights_of(whole))
    assert again.selected_layers == whole.selected_layers
    assert again.layer_gradient_norms == whole.layer_gradient_norms
    for name, values in rest.items():
        assert values == logs[name][2:], name
    for ours, theirs in zip(
        again.optimizer.variables, whole.optimizer.variables, strict=True
    ):
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())


def test_weights_files_and_checkpoints(tmp_path):
    model = make(layers=2)
    fit(model, 2)
    model.save_weights(tmp_path / "run.weights.h5")
    other = make(layers=2)
    other.optimizer.build(other.trainable_variables)
    other.load_weights(tmp_path / "run.weights.h5")
    assert_equal(weights_of(other), weights_of(model))
    assert other.selected_layers == model.selected_layers


def test_memory_is_updated_and_saved(tmp_path):
    model = make(Remembering(), layers="all")
    fit(model, 1)
    assert float(model._state.memory()["steps"]) == 3.0
    assert all(float(np.abs(m).sum()) > 0 for m in _mean(model))
    model.save(tmp_path / "run.keras")
    again = keras.saving.load_model(tmp_path / "run.keras")
    assert_equal(_mean(again), _mean(model))


def _mean(model):
    return [to_numpy(m) for m in model._state.memory()["mean"]]


def test_the_network_is_trained_in_place_and_saved_plain(tmp_path):
    model = make()
    network = model.model
    before = weights_of(network)
    fit(model, 1)
    assert any(
        (a != b).any() for a, b in zip(weights_of(network), before, strict=True)
    )
    network.save(tmp_path / "plain.keras")
    plain = keras.saving.load_model(tmp_path / "plain.keras")
    assert not isinstance(plain, LWSAMModel)
    x, _ = image_data(8)
    np.testing.assert_array_equal(
        plain.predict(x, verbose=0), model.predict(x, verbose=0)
    )


def test_subclassed_networks_load(tmp_path):
    network, x, y = subclassed()
    model = LWSAMModel(network, layers=["hidden"])
    model.compile("adam", cross_entropy())
    model.fit(x, y, verbose=0)
    model.save(tmp_path / "run.keras")
    again = keras.saving.load_model(tmp_path / "run.keras")
    assert isinstance(again.model, Subclassed)
    assert_equal(weights_of(again), weights_of(model))
    again.fit(x, y, verbose=0)


def test_a_file_of_another_network_is_refused_and_changes_nothing(tmp_path):
    model = make(layers=2)
    before, selected = weights_of(model), model.selected_layers
    other = LWSAMModel(dense_network())
    store = {}
    model.save_own_variables(store)
    foreign = {}
    other.save_own_variables(foreign)
    assert set(foreign) == {*"01234", "clock", "selection"}
    for bad in (
        foreign,
        {**store, "0": np.zeros((3, 99))},
        {**store, "seed_0": np.zeros(3)},
        {**store, "selection": np.array([0, 0, 99])},
        {**store, "selection": np.array([-1, 0])},
        {**store, "clock": np.array([0, 1])},
    ):
        with pytest.raises(ValueError, match=r"[Rr]eceived"):
            model.load_own_variables(bad)
    assert_equal(weights_of(model), before)
    assert model.selected_layers == selected
    model.load_own_variables(store)


def test_config_survives():
    model = make("gnp", layers=3, sharpness_metrics=False)
    again = LWSAMModel.from_config(model.get_config())
    assert again.get_config() == model.get_config()
    assert again.sharpness_metrics is False


def test_a_method_with_memory_moves_weights_as_it_says():
    """One step by hand: epsilon = rho (1 - decay) g at first."""
    network = dense_network(sizes=(4, 3))
    model = LWSAMModel(network, Remembering(0.5), layers="all")
    model.compile(keras.optimizers.SGD(1.0), cross_entropy())
    x = np.random.default_rng(0).normal(size=(8, 4)).astype("float32")
    y = np.arange(8) % 3
    values = weights_of(network)

    def loss():
        return cross_entropy()(y, network(x, training=True))

    gradient = gradients_of(network, loss)
    network.set_weights(
        [w + 0.5 * 0.1 * g for w, g in zip(values, gradient, strict=True)]
    )
    sharp = gradients_of(network, loss)
    network.set_weights(values)
    model.train_on_batch(x, y)
    for now, old, g in zip(weights_of(network), values, sharp, strict=True):
        np.testing.assert_allclose(now, old - g, rtol=0, atol=1e-6)


def test_state_tree():
    """Keras makes one of paths, so each variable must have its own."""
    model = LWSAMModel(dense_network(), "vasso")
    model.compile("sgd", cross_entropy())
    model.set_state_tree(model.get_state_tree())
