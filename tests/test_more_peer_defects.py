"""More defects of the legacy class, and those of other implementations."""

import keras
import numpy as np
import pytest
from keras import layers

from keras_lwsam import LWSAMModel, methods, selection
from tests.backends import to_numpy
from tests.defects import (
    EAGER,
    RHO,
    TWO_MODES,
    FirstPassOnly,
    ascend,
    assert_step_is_that_of_reference,
    data,
    evaluate,
    every_variable,
    mean_squared_error,
    norm,
    normalized_network,
    reference_step,
    small_network,
    targets_of_two_outputs,
    two_outputs,
    with_layer,
    wrap,
)
from tests.support import (
    MODES,
    assert_close,
    assert_equal,
    distance,
    momentum_sgd,
    weights_of,
)


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
        error = target - to_numpy(output)
        assert logs[f"{name}_mae"] == pytest.approx(np.mean(np.abs(error)))


@pytest.mark.not_jax
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


@pytest.mark.not_jax
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
