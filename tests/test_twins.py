"""Every method equals a twin that mutates, evaluates and restores."""

import inspect

import keras
import numpy as np
import pytest

from keras_lwsam import LWSAMModel, methods, selection
from tests import twins
from tests.cases import CASES, KINDS, daily
from tests.support import (
    MODES,
    XLA,
    assert_close,
    convolutional_network,
    cross_entropy,
    distance,
    image_data,
    momentum_sgd,
    train_on_batch,
    weights_of,
)
from tests.test_contract import network as dense_network

# What a twin must be told in its own words.
TWIN_ARGUMENTS = {
    "fisher_sparse_sam": {"refresh_steps": (0, 3)},
    "dynamic_sparse_sam": {"refresh_steps": (0, 2, 4)},
}
IMAGE_CASES = {
    "fisher_sparse_sam": lambda: methods.FisherSparseSAM(
        0.1, num_samples=4, refresh=3
    ),
    "imbsam": lambda: methods.ImbSAM([30, 20, 5], 0.1),
    "entropy_sgd": lambda: methods.EntropySGD(steps=3, noise=0.0),
}
DENSE_CASES = {"entropy_sgd": IMAGE_CASES["entropy_sgd"]}


@pytest.fixture
def draws(monkeypatch):
    """The numbers of the twins, in place of those of `keras.random`."""
    numbers = twins.Draws()

    def uniform(shape, minval=0.0, maxval=1.0, dtype="float32", seed=None):
        numbers.calls = seed.draw - 1
        shape = tuple(int(size) for size in shape)
        values = minval + (maxval - minval) * numbers.uniform(shape)
        return keras.ops.convert_to_tensor(values, dtype)

    monkeypatch.setattr(keras.random, "uniform", uniform)
    return numbers


def twin_of(name, method):
    accepted = inspect.signature(twins.TWINS[name].__init__).parameters
    arguments = {k: v for k, v in method._parameters().items() if k in accepted}
    return twins.TWINS[name](**arguments, **TWIN_ARGUMENTS.get(name, {}))


def compare(name, method, make, layers, is_selected, data, draws, **mode):
    model = LWSAMModel(make(), method, layers=layers)
    model.compile(momentum_sgd(), cross_entropy(), **mode)
    keras.utils.set_random_seed(1)
    logs = [train_on_batch(model, x, y) for x, y in data]
    network = make()
    expected = twins.train(
        twin_of(name, method),
        network,
        momentum_sgd(),
        data,
        is_selected,
        jit_compile=mode.get("jit_compile", False),
        draws=draws,
    )
    assert_close(weights_of(model.model), weights_of(network), 2e-6)
    for log, other in zip(logs, expected, strict=True):
        assert log["loss"] == pytest.approx(other["loss"], abs=2e-6)
        for key in ("sharpness", "gradient_norm"):
            if key in other:
                assert log[key] == pytest.approx(
                    other[key], rel=1e-4, abs=5e-6
                ), key


def batches(x, y, size=8):
    return [(x[i : i + size], y[i : i + size]) for i in range(0, len(x), size)]


# In graph mode at once those that no recorded run is there for.
TRACED = {
    *("gnp", "delta_sam", "dynamic_sparse_sam", "esam", "ksam", "ausam"),
    *("imbsam", "async_sam", "entropy_sgd", "smooth_out", "ae_look_sam"),
}


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        (name, mode)
        if mode == ("graph" if name in TRACED else "eager")
        and name in {*TRACED, *KINDS}
        else pytest.param(name, mode, marks=pytest.mark.exhaustive)
        for name in CASES
        for mode in ("graph", "eager")
    ],
)
def test_convolutions_with_batchnorm_dropout_and_regularizers(
    name, mode, draws
):
    make = IMAGE_CASES.get(name, CASES[name].make)
    head = ("conv2", "norm2", "hidden")
    compare(
        name,
        make(),
        convolutional_network,
        list(head),
        lambda v: v.path.split("/")[0] in head,
        batches(*image_data(40)),
        draws,
        **MODES[mode],
    )


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        (name, mode)
        if name in everyday
        else pytest.param(name, mode, marks=pytest.mark.exhaustive)
        for mode, everyday in (("eager", KINDS), (XLA, ["aesam"]))
        for name in CASES
    ],
)
def test_dense_layers_in_other_modes(name, mode, draws):
    generator = np.random.default_rng(7)
    x = generator.normal(size=(40, 10)).astype("float32")
    y = generator.integers(0, 4, 40)
    make = DENSE_CASES.get(name, CASES[name].make)
    compare(
        name,
        make(),
        dense_network,
        "all",
        lambda v: True,
        batches(x, y),
        draws,
        **MODES[mode],
    )


SPARSE = {
    "structured": ("structured", 0.5),
    "2:4": ((2, 4), 0.5),
    "1:3": ((1, 3), 0.5),
    "nearly all": ("unstructured", 0.03),
}


@pytest.mark.parametrize(
    ("name", "pattern"),
    daily(
        [
            (name, pattern)
            for name in ("fisher_sparse_sam", "dynamic_sparse_sam")
            for pattern in SPARSE
        ],
        lambda name, pattern: (
            (name, pattern)
            in {
                ("fisher_sparse_sam", "structured"),
                ("dynamic_sparse_sam", "2:4"),
            }
        ),
    ),
)
def test_patterns_of_masks(name, pattern, draws):
    pattern, sparsity = SPARSE[pattern]
    if name == "fisher_sparse_sam":
        method = methods.FisherSparseSAM(
            0.1, sparsity, num_samples=4, refresh=3, pattern=pattern
        )
    else:
        method = methods.DynamicSparseSAM(
            0.1, sparsity, refresh=2, pattern=pattern
        )
    if (name, pattern) == ("dynamic_sparse_sam", "structured"):
        # Theirs keeps the number of variables, ours that of entries.
        method = methods.DynamicSparseSAM(
            0.1, sparsity, drop_rate=0.0, pattern=pattern
        )
    compare(
        name,
        method,
        convolutional_network,
        "all",
        lambda v: True,
        batches(*image_data(40)),
        draws,
    )


VARIANTS = {
    "norm over all": ("sam", methods.SAM(0.1), {"measured_everywhere": True}),
    "bisam tanh": ("bisam", methods.BiSAM(0.1, 10.0, "tanh"), {}),
    "wsam coupled": ("wsam", methods.WSAM(0.1, decouple=False), {}),
    "stable normalized": ("stable_sam", methods.StableSAM(0.1, True), {}),
    "amp 3": ("amp", methods.AMP(0.1, 2.0, 3), {}),
    "sampa 0": ("sampa", methods.SAMPa(0.1, 0.0), {}),
    "looksam 3": ("look_sam", methods.LookSAM(0.1, 3, 0.3), {}),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_other_arguments(variant, draws):
    name, method, options = VARIANTS[variant]
    x, y = image_data(40)
    perturbation_norm = "all" if options else "selected"
    model = LWSAMModel(
        convolutional_network(),
        method,
        layers=selection.OutputSide(2),
        perturbation_norm=perturbation_norm,
    )
    model.compile(momentum_sgd(weight_decay=0.01), cross_entropy())
    keras.utils.set_random_seed(1)
    for batch in batches(x, y):
        train_on_batch(model, *batch)
    network = convolutional_network()
    twins.train(
        twin_of(name, method),
        network,
        momentum_sgd(weight_decay=0.01),
        batches(x, y),
        lambda v: v.path.split("/")[0] in ("hidden", "logits"),
        **options,
    )
    assert_close(weights_of(model.model), weights_of(network), 2e-6)


SELECTIONS = {
    "all": ("all", lambda v: True),
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


@pytest.mark.parametrize(
    "method", ["sam", pytest.param("gnp", marks=pytest.mark.exhaustive)]
)
@pytest.mark.parametrize("chosen", SELECTIONS)
def test_selections(chosen, method, draws):
    layers, is_selected = SELECTIONS[chosen]
    compare(
        method,
        methods.get(method, 0.1),
        convolutional_network,
        layers,
        is_selected,
        batches(*image_data(24)),
        draws,
    )


def test_norms_of_layers_are_those_of_the_applied_gradient():
    x, y = image_data(8)
    model = LWSAMModel(convolutional_network(), methods.SAM(0.1), layers="all")
    model.compile(keras.optimizers.SGD(1.0), cross_entropy())
    before = [v.numpy() for v in model.model.trainable_variables]
    model.train_on_batch(x, y)
    squares = {}
    for variable, old in zip(
        model.model.trainable_variables, before, strict=True
    ):
        path = variable.path.split("/")[0]
        square = float(np.sum((variable.numpy() - old) ** 2))
        squares[path] = squares.get(path, 0.0) + square
    for path, square in squares.items():
        assert model.layer_gradient_norms[path] == pytest.approx(
            np.sqrt(square), rel=1e-3, abs=1e-6
        )


def test_control_another_radius_gives_other_weights():
    ends = []
    for rho in (0.1, 0.2):
        model = LWSAMModel(convolutional_network(), rho=rho, layers="all")
        model.compile(momentum_sgd(), cross_entropy())
        for x, y in batches(*image_data(24)):
            model.train_on_batch(x, y)
        ends.append(weights_of(model.model))
    assert distance(*ends) > 1e-4
