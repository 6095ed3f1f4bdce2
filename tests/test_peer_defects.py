"""What other implementations get wrong, and this one must not.

Defects 1 to 13 are those of the class that Keras 2 had,
`tf_keras.models.experimental.SharpnessAwareMinimization`; the rest were found
in implementations for PyTorch, JAX and Keras 3.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from keras_lwsam import LWSAMModel, methods, selection
from tests.support import (
    MODES,
    assert_close,
    assert_equal,
    dense_network,
    distance,
    momentum_sgd,
    weights_of,
)

RHO = 0.1
EAGER = MODES["eager"]
TWO_MODES = {name: MODES[name] for name in ("graph", "eager")}


class AddLoss(layers.Layer):
    """Adds the mean square of its inputs to the loss."""

    def __init__(self, strength):
        super().__init__()
        self.strength = strength

    def call(self, inputs):
        squares = keras.ops.mean(keras.ops.square(inputs))
        self.add_loss(self.strength * squares)
        return inputs


class UnusedWeight(layers.Layer):
    """Owns a weight that has no influence on what it returns."""

    def build(self, input_shape):
        self.unused = self.add_weight(shape=(3,), name="unused")

    def call(self, inputs):
        return inputs


class FirstPassOnly(layers.Layer):
    """Uses its weight in every other call of training."""

    def build(self, input_shape):
        self.calls = 0
        self.scale = self.add_weight(shape=(), initializer="ones", name="scale")

    def call(self, inputs, training=None):
        self.calls += bool(training)
        return inputs * self.scale if self.calls % 2 else inputs


@keras.saving.register_keras_serializable(package="tests")
class FailsOnCall(layers.Layer):
    """Raises in one call, counted down from `countdown`."""

    countdown = 0

    def call(self, inputs):
        self.countdown -= 1
        if self.countdown == 0:
            raise RuntimeError("this pass fails")
        return inputs


def mean_squared_error():
    return keras.losses.MeanSquaredError()


def data(count=8, width=4, outputs=2):
    """Random inputs and targets for a regression."""
    generator = np.random.default_rng(0)
    x = 2.0 * generator.normal(size=(count, width)) + 1.0
    y = generator.normal(size=(count, outputs))
    return x.astype("float32"), y.astype("float32")


def small_network():
    return dense_network(sizes=(4, 6, 2))


def normalized_network(dropout=0.3):
    """BatchNorm and dropout between two dense layers."""
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(6, name="hidden"),
            layers.BatchNormalization(name="norm"),
            layers.Activation("tanh"),
            layers.Dropout(dropout),
            FailsOnCall(),
            layers.Dense(2, name="output"),
        ]
    )


def with_layer(make_layer):
    """Two dense layers and another one between them."""
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(6, activation="tanh", name="hidden"),
            make_layer(),
            layers.Dense(2, name="output"),
        ]
    )


def wrap(network, learning_rate=0.1, loss="mse", mode=EAGER, **arguments):
    """A compiled SAM of the whole network, or as `arguments` say."""
    model = LWSAMModel(network, **{"layers": "all", "rho": RHO, **arguments})
    model.compile(keras.optimizers.SGD(learning_rate), loss, **mode)
    return model


def evaluate(network, x, y, training=True, loss=None):
    """Loss and gradients of a plain tape."""
    loss = loss or mean_squared_error()
    with tf.GradientTape() as tape:
        value = loss(y, network(x, training=training)) + sum(network.losses)
    gradients = tape.gradient(value, network.trainable_variables)
    return float(value), [
        None if g is None else tf.convert_to_tensor(g).numpy()
        for g in gradients
    ]


def norm(arrays):
    """L2 norm over a list of arrays."""
    squares = [np.sum(np.square(a, dtype="float64")) for a in arrays]
    return float(np.sqrt(sum(squares)))


def ascend(network, gradients):
    """Moves the trainable weights along their gradients by `RHO`."""
    factor = RHO / norm([g for g in gradients if g is not None])
    for v, g in zip(network.trainable_variables, gradients, strict=True):
        if g is not None:
            v.assign(v.numpy() + np.float32(factor) * g)


def assign(variables, values):
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


def reference_step(network, x, y, learning_rate=0.1, loss=None):
    """One step of SAM with SGD, by mutating and restoring.

    Returns:
        `(clean loss, loss at the perturbed weights, clean gradient norm)`.
    """
    variables = network.trainable_variables
    state = network.non_trainable_variables
    weights = [v.numpy().copy() for v in variables]
    state_before = [v.numpy().copy() for v in state]
    clean_loss, clean = evaluate(network, x, y, loss=loss)
    state_after = [v.numpy().copy() for v in state]
    ascend(network, clean)
    assign(state, state_before)
    sharp_loss, sharp = evaluate(network, x, y, loss=loss)
    assign(state, state_after)
    for v, w, g in zip(variables, weights, sharp, strict=True):
        v.assign(w if g is None else w - np.float32(learning_rate) * g)
    return clean_loss, sharp_loss, norm([g for g in clean if g is not None])


def every_variable(model):
    """Copies of the variables of network, method, optimizer and metrics."""
    variables = [
        *model.variables,
        *model.optimizer.variables,
        *(v for metric in model.metrics for v in metric.variables),
    ]
    return [v.numpy().copy() for v in variables]


def assert_step_is_that_of_reference(
    make_network,
    x,
    y,
    loss="mse",
    reference_loss=None,
    learning_rate=0.1,
    **mode,
):
    """One step of the package and one that mutates and restores agree."""
    network, twin = make_network(), make_network()
    before = weights_of(network)
    model = wrap(network, learning_rate, loss, mode)
    logs = model.train_on_batch(x, y, return_dict=True)
    clean, sharp, length = reference_step(
        twin, x, y, learning_rate, reference_loss
    )
    assert sharp - clean > 1e-3
    assert logs["loss"] == pytest.approx(clean, rel=1e-5)
    assert logs["sharpness"] == pytest.approx(sharp - clean, rel=1e-3)
    assert logs["gradient_norm"] == pytest.approx(length, rel=1e-5)
    assert distance(weights_of(network), before) > 1e-4
    assert_close(weights_of(network), weights_of(twin), 2e-6)
    return network, before


def regularized(strength):
    regularizer = keras.regularizers.L2(strength)
    return with_layer(lambda: layers.Dense(6, kernel_regularizer=regularizer))


def with_added_loss(strength):
    return with_layer(lambda: AddLoss(strength))


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


def two_outputs(structure):
    """A network with outputs `a` and `b` of unequal shape."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4,))
    x = layers.Dense(6, activation="tanh")(inputs)
    outputs = {
        "a": layers.Dense(2, name="a")(x),
        "b": layers.Dense(3, name="b")(x),
    }
    if structure == "list":
        outputs = list(outputs.values())
    return keras.Model(inputs, outputs)


def targets_of_two_outputs(structure, count=8):
    y = {"a": data(count)[1], "b": data(count, outputs=3)[1]}
    return y if structure == "dict" else list(y.values())


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
        np.mean(np.square(target - output))
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


def embedding_network():
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((3,), dtype="int32"),
            layers.Embedding(7, 4, name="embedding"),
            layers.Flatten(),
            layers.Dense(2, name="output"),
        ]
    )


@pytest.mark.parametrize("mode", TWO_MODES.values(), ids=TWO_MODES)
def test_defect_9_embedding(mode):
    """It crashed on any network with an `Embedding`."""
    x = np.array([[0, 1, 1], [1, 2, 5], [5, 5, 0], [2, 2, 2]], "int32")
    network, before = assert_step_is_that_of_reference(
        embedding_network, x, data(4)[1], **mode
    )
    rows = np.any(weights_of(network)[0] != before[0], axis=1)
    assert rows.tolist() == [i in (0, 1, 2, 5) for i in range(7)]


@pytest.mark.parametrize("structure", ["dict", "list"])
@pytest.mark.parametrize("mode", TWO_MODES.values(), ids=TWO_MODES)
def test_defect_10_several_outputs(structure, mode):
    """It crashed on dict outputs, metrics of lists and losses by name."""
    x, y = data()[0], targets_of_two_outputs(structure)

    def reference_loss(y_true, y_pred):
        a, b = (
            mean_squared_error()(true, predicted)
            for true, predicted in zip(
                keras.tree.flatten(y_true),
                keras.tree.flatten(y_pred),
                strict=True,
            )
        )
        return a + 3.0 * b

    network, twin = two_outputs(structure), two_outputs(structure)
    model = LWSAMModel(network, layers="all", rho=RHO)
    model.compile(
        keras.optimizers.SGD(0.1),
        loss={"a": "mse", "b": "mse"},
        loss_weights={"a": 1.0, "b": 3.0},
        metrics={"a": ["mae"], "b": ["mae"]},
        **mode,
    )
    outputs = keras.tree.flatten(network(x))
    logs = model.train_on_batch(x, y, return_dict=True)
    clean, sharp, _ = reference_step(twin, x, y, loss=reference_loss)
    assert sharp - clean > 1e-3
    assert_close(weights_of(network), weights_of(twin), 1e-6)
    assert logs["loss"] == pytest.approx(clean, rel=1e-5)
    for name, target, output in zip(
        "ab", keras.tree.flatten(y), outputs, strict=True
    ):
        error = target - output.numpy()
        assert logs[f"{name}_mae"] == pytest.approx(np.mean(np.abs(error)))


def test_defect_11_exception_leaves_weights_perturbed():
    """An exception in its second pass left the weights perturbed."""
    x, y = data()
    models = [wrap(normalized_network()) for _ in range(2)]
    for model in models:
        model.compile(momentum_sgd(), "mse", metrics=["mae"], **EAGER)
        model.train_on_batch(x, y)
    failing, twin = models
    before = every_variable(failing)
    failing.model.layers[-2].countdown = 2
    with pytest.raises(RuntimeError, match="this pass fails"):
        failing.train_step((x, y))
    assert failing.model.layers[-2].countdown == 0
    assert_equal(every_variable(failing), before)
    for model in models:
        model.train_on_batch(x, y)
    assert distance(weights_of(failing), before[: len(weights_of(failing))])
    assert_equal(every_variable(failing), every_variable(twin))


@pytest.mark.parametrize("dtype", ["float32", "mixed_float16", "bfloat16"])
def test_defect_12_restoring_by_subtraction_drifts(dtype):
    """Its weights drifted at a learning rate of zero."""
    x, y = data(20)
    keras.config.set_dtype_policy(dtype)
    network = small_network()
    before = weights_of(network)
    model = wrap(network, learning_rate=0.0, rho=5.0)
    history = model.fit(x, y, batch_size=4, verbose=0).history
    assert history["sharpness"][0] > 1.0
    assert_equal(weights_of(network), before)


def test_control_12_subtraction_does_drift():
    """Adding such a perturbation and subtracting it again loses bits."""
    network = small_network()
    before = weights_of(network)
    _, gradients = evaluate(network, *data())
    epsilons = [np.float32(5.0 / norm(gradients)) * g for g in gradients]
    restored = [(w + e) - e for w, e in zip(before, epsilons, strict=True)]
    assert 0.0 < distance(restored, before) < 1e-6


def two_inputs():
    keras.utils.set_random_seed(0)
    inputs = {name: keras.Input((4,), name=name) for name in ("left", "right")}
    branches = [
        layers.Dense(3, activation="tanh", name=f"{name}_branch")(each)
        for name, each in inputs.items()
    ]
    return keras.Model(inputs, layers.Dense(2)(layers.Concatenate()(branches)))


def test_defect_13_uneven_batch_and_several_inputs():
    """It split batches into equal parts only, and only of one input."""
    x, y = data(10)
    inputs = {"left": x, "right": x[::-1].copy()}
    network, twin = two_inputs(), two_inputs()
    model = wrap(network)
    model.fit(inputs, y, batch_size=4, shuffle=False, verbose=0)
    batches = [
        ({k: v[i : i + 4] for k, v in inputs.items()}, y[i : i + 4])
        for i in (0, 4, 8)
    ]
    assert len(batches[-1][1]) == 2
    for batch in batches:
        reference_step(twin, *batch)
    assert distance(weights_of(network), weights_of(two_inputs())) > 1e-2
    assert_close(weights_of(network), weights_of(twin), 1e-6)


@pytest.mark.parametrize("learning_rate", [0.0, 0.1])
def test_weight_without_sharp_gradient_stays_perturbed(learning_rate):
    """In PyTorch peers it was not restored: `grad is None` was skipped."""
    network = with_layer(FirstPassOnly)
    before = weights_of(network)
    model = wrap(network, learning_rate)
    with pytest.warns(UserWarning, match="Gradients do not exist"):
        logs = model.train_on_batch(*data(), return_dict=True)
    assert network.layers[1].calls == 2
    assert logs["sharpness"] > 1e-3
    changed = [
        (a != b).any() for a, b in zip(weights_of(network), before, strict=True)
    ]
    is_scale = [v.path.endswith("scale") for v in network.weights]
    assert is_scale.count(True) == 1
    assert changed == [learning_rate > 0 and not is_it for is_it in is_scale]


@pytest.mark.parametrize("method", [methods.SAM(RHO), methods.GNP(RHO)])
@pytest.mark.parametrize("mode", TWO_MODES.values(), ids=TWO_MODES)
def test_zero_gradient_gives_nan(method, mode):
    """JAX peers divided by the norm of a zero gradient."""
    x, y = data()
    network = small_network()
    network.layers[-1].kernel.assign(np.zeros((6, 2)))
    before = weights_of(network)
    model = wrap(network, mode=mode, method=method, rho=None)
    logs = model.train_on_batch(x, np.zeros_like(y), return_dict=True)
    assert logs == {"loss": 0.0, "sharpness": 0.0, "gradient_norm": 0.0}
    assert_equal(weights_of(network), before)
    logs = model.train_on_batch(x, y, return_dict=True)
    assert logs["gradient_norm"] > 0.0
    assert distance(weights_of(network), before) > 1e-3


def test_zero_gradient_of_the_selected_layers_gives_nan():
    """Only the perturbed layers may be at rest: then the step is plain."""
    networks = small_network(), small_network()
    for network in networks:
        network.layers[-1].kernel.assign(np.zeros((6, 2)))
    before = weights_of(networks[0])
    for network, rho in zip(networks, (RHO, 0.0), strict=True):
        wrap(network, layers="dense1", rho=rho).train_on_batch(*data())
    assert distance(weights_of(networks[0]), before) > 1e-3
    assert_equal(weights_of(networks[0]), weights_of(networks[1]))


@pytest.mark.parametrize(
    ("dropout", "chosen"),
    [(0.0, selection.Random(1, refresh=2, seed=1)), (0.3, "all")],
    ids=["selection", "dropout"],
)
def test_resumed_run_changes_its_result(tmp_path, dropout, chosen):
    """Composer warns that a resumed run ends elsewhere."""
    x, y = data(12)

    def train(model, epochs, initial_epoch=0):
        model.run_eagerly = True
        model.fit(
            x,
            y,
            batch_size=4,
            shuffle=False,
            verbose=0,
            epochs=epochs,
            initial_epoch=initial_epoch,
        )

    def start():
        model = LWSAMModel(normalized_network(dropout), layers=chosen, rho=RHO)
        model.compile(momentum_sgd(), "mse", **EAGER)
        return model

    whole, interrupted = start(), start()
    train(whole, 3)
    train(interrupted, 1)
    interrupted.save(tmp_path / "run.keras")
    keras.utils.set_random_seed(99)
    resumed = keras.saving.load_model(tmp_path / "run.keras")
    train(resumed, 3, initial_epoch=1)
    assert distance(weights_of(interrupted), weights_of(whole)) > 1e-3
    assert_equal(weights_of(resumed), weights_of(whole))


@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
def test_silently_did_nothing(mode):
    """Six peers applied the clean gradient: plain SGD at any radius."""
    x, y = data()
    network, twin = small_network(), small_network()
    before = weights_of(network)
    _, clean = evaluate(twin, x, y)
    ascend(twin, clean)
    _, sharp = evaluate(twin, x, y)
    wrap(network, 1.0, mode=mode).train_on_batch(x, y)
    applied = [b - a for a, b in zip(weights_of(network), before, strict=True)]
    assert_close(applied, sharp, 2e-6)
    difference = [s - c for s, c in zip(sharp, clean, strict=True)]
    assert norm(difference) > 0.05 * norm(clean)


def test_perturbation_scaled_by_the_learning_rate():
    """Where peers let the optimizer ascend, a rate of 0 meant no SAM."""
    logs = [
        wrap(small_network(), rate).train_on_batch(*data(), return_dict=True)
        for rate in (0.0, 0.1)
    ]
    assert logs[0]["sharpness"] > 1e-2
    assert logs[0] == logs[1]
