"""Defects of the legacy class of `tf_keras`, by number: here they are not."""

import keras
import numpy as np
import pytest

from keras_lwsam import LWSAMModel, methods, selection
from tests.backends import to_numpy
from tests.defects import (
    EAGER,
    RHO,
    TWO_MODES,
    UnusedWeight,
    ascend,
    assert_step_is_that_of_reference,
    data,
    evaluate,
    norm,
    normalized_network,
    regularized,
    small_network,
    targets_of_two_outputs,
    two_outputs,
    with_added_loss,
    with_layer,
    wrap,
)
from tests.support import (
    assert_close,
    assert_equal,
    distance,
    weights_of,
)


@pytest.mark.parametrize(
    "make_network",
    [regularized, with_added_loss],
    ids=["regularizer", "add_loss"],
)
def test_defect_1_dropped_regularization(make_network):
    """It took the same step with l2 = 10 as with l2 = 0."""
    x, y = data()
    stepped = {
        strength: assert_step_is_that_of_reference(
            lambda strength=strength: make_network(strength),
            x,
            y,
            learning_rate=0.01,
            **EAGER,
        )[0]
        for strength in (0.0, 10.0)
    }
    assert distance(weights_of(stepped[0.0]), weights_of(stepped[10.0])) > 1e-3


def test_defect_2_gradients_of_parts_summed():
    """It summed the gradients of n parts, a step n times too long."""
    x, y = data()
    whole, parts = small_network(), small_network()
    before = weights_of(whole)
    wrap(whole).train_on_batch(x, y)
    model = wrap(parts)
    optimizer = keras.optimizers.SGD(0.1, gradient_accumulation_steps=4)
    model.compile(optimizer, "mse", **EAGER)
    for _ in range(4):
        assert_equal(weights_of(parts), before)
        model.train_on_batch(x, y)
    assert distance(weights_of(whole), before) > 1e-2
    assert_close(weights_of(parts), weights_of(whole), 1e-6)


def test_defect_3_argument_lost_on_reload(tmp_path):
    """It came back from a file without one of its arguments."""
    model = LWSAMModel(
        small_network(),
        methods.GNP(rho=0.2, alpha=0.3),
        layers=selection.KernelsOnly(selection.ByPath("dense2")),
        perturbation_norm="all",
        sync_perturbation=True,
        sharpness_metrics=False,
        name="wrapper",
    )
    model.compile(keras.optimizers.SGD(0.1), "mse", **EAGER)
    model.save(tmp_path / "run.keras")
    loaded = keras.saving.load_model(tmp_path / "run.keras")
    for name in (
        "method",
        "selection",
        "perturbation_norm",
        "sync_perturbation",
        "sharpness_metrics",
        "name",
    ):
        assert getattr(loaded, name) == getattr(model, name), name
    loaded.run_eagerly = True
    before = weights_of(model)
    for each in (model, loaded):
        each.train_on_batch(*data())
    assert distance(weights_of(model), before) > 1e-3
    assert_equal(weights_of(loaded), weights_of(model))


def test_defect_3_layer_path_lost_on_reload(tmp_path):
    """The same of a path that the model itself gave."""
    x, y = data()
    network = small_network()
    path = LWSAMModel(network).layer_paths[-1]
    model = wrap(network, layers=path)
    model.train_on_batch(x, y)
    model.save(tmp_path / "run.keras")
    loaded = keras.saving.load_model(tmp_path / "run.keras")
    assert loaded.selected_layers == model.selected_layers == [path]


def test_defect_4_first_pass_in_inference_mode():
    """Its ascent gradient used moving statistics and no dropout."""
    x, y = data()
    norms = {
        training: norm(evaluate(normalized_network(), x, y, training)[1])
        for training in (True, False)
    }
    logs = wrap(normalized_network()).train_on_batch(x, y, return_dict=True)
    assert abs(norms[True] - norms[False]) > 1e-2
    assert logs["gradient_norm"] == pytest.approx(norms[True], rel=1e-5)
    assert_step_is_that_of_reference(normalized_network, x, y, **EAGER)


def test_defect_5_statistics_of_the_perturbed_weights():
    """Its BatchNorm statistics were those at the perturbed weights."""
    x, y = data()
    network, clean, perturbed = (normalized_network() for _ in range(3))
    wrap(network).train_on_batch(x, y)
    clean(x, training=True)
    ascend(perturbed, evaluate(normalized_network(), x, y)[1])
    perturbed(x, training=True)
    statistics = [
        [v.numpy() for v in each.get_layer("norm").non_trainable_variables]
        for each in (network, clean, perturbed)
    ]
    assert_close(statistics[0], statistics[1], 1e-7)
    assert distance(statistics[1], statistics[2]) > 1e-4


def test_defect_6_reported_loss_averages_two_passes():
    """Its logged loss was the mean of the clean and the perturbed one."""
    x, y = data(10)[0], targets_of_two_outputs("list", 10)
    plain, network = two_outputs("list"), two_outputs("list")
    arguments = {"loss": ["mse", "mse"], "metrics": [["mae"], ["mae"]], **EAGER}
    plain.compile(keras.optimizers.SGD(0.0), **arguments)
    model = LWSAMModel(network, layers="all", rho=RHO)
    model.compile(keras.optimizers.SGD(0.0), **arguments)
    expected, actual = (
        each.fit(x, y, batch_size=4, epochs=2, verbose=0).history
        for each in (plain, model)
    )
    assert min(actual["sharpness"]) > 1e-2
    errors = [
        np.mean(np.square(target - to_numpy(output)))
        for target, output in zip(y, plain(x), strict=True)
    ]
    np.testing.assert_allclose(actual["loss"], 2 * [sum(errors)], rtol=1e-5)
    assert {"a_loss", "b_loss", "a_mae", "b_mae"} < set(expected)
    for name, values in expected.items():
        np.testing.assert_allclose(actual[name], values, rtol=1e-6)


@pytest.mark.parametrize("mode", TWO_MODES.values(), ids=TWO_MODES)
def test_defect_7_loss_not_scaled(mode):
    """Its float16 gradients of a small loss were rounded to zero."""
    x, y = data()

    def tiny_loss(y_true, y_pred):
        squares = keras.ops.square(
            keras.ops.cast(y_true, "float32")
            - keras.ops.cast(y_pred, "float32")
        )
        return 1e-8 * keras.ops.mean(squares)

    def train(network):
        before = weights_of(network)
        model = wrap(network, 1e7, tiny_loss, mode)
        model.train_on_batch(x, y)
        after = weights_of(network)
        updates = [a - b for a, b in zip(after, before, strict=True)]
        return model, updates

    _, expected = train(small_network())
    keras.config.set_dtype_policy("mixed_float16")
    unscaled = evaluate(small_network(), x, y, loss=tiny_loss)[1]
    assert norm(unscaled) == 0.0
    model, actual = train(small_network())
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    assert norm(expected) > 1e-2
    assert_close(actual, expected, 0.02 * norm(expected))


@pytest.mark.not_jax
@pytest.mark.parametrize("mode", TWO_MODES.values(), ids=TWO_MODES)
def test_defect_8_variable_without_gradient(mode):
    """It crashed on a variable that the loss does not depend on."""
    with pytest.warns(UserWarning, match="Gradients do not exist"):
        network, before = assert_step_is_that_of_reference(
            lambda: with_layer(UnusedWeight), *data(), **mode
        )
    unused = [v.path.endswith("unused") for v in network.weights]
    assert unused.count(True) == 1
    position = unused.index(True)
    assert_equal([weights_of(network)[position]], [before[position]])
