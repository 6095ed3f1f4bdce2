"""Methods: by name, by value, and programs that the library does not ship."""

import keras
import numpy as np
import pytest

from keras_lwsam import LWSAMModel, methods
from keras_lwsam._optimizers import predict_update
from keras_lwsam._tensors import add, restrict, scale
from tests.backends import BACKEND, differentiated, to_numpy
from tests.support import (
    MODES,
    assert_close,
    cross_entropy,
    dense_network,
    weights_of,
)

X = np.random.default_rng(0).normal(size=(16, 10)).astype("float32")
Y = np.random.default_rng(1).integers(0, 4, 16)


DEFAULTS = {
    "SAM": {"rho": 0.05},
    "GNP": {"rho": 0.1, "alpha": 0.8},
    "ASAM": {"rho": 0.5, "eta": 0.01},
    "GSAM": {"rho": 0.05, "alpha": 0.4},
    "StableSAM": {"rho": 0.05, "normalize": False},
    "SAMPa": {"rho": 0.1, "interpolation": 0.2},
    "FisherSparseSAM": {
        "rho": 0.1,
        "sparsity": 0.5,
        "num_samples": 16,
        "refresh": "epoch",
        "pattern": "unstructured",
        "samples": None,
    },
    "DynamicSparseSAM": {
        "rho": 0.1,
        "sparsity": 0.5,
        "drop_rate": 0.5,
        "refresh": "epoch",
        "pattern": "unstructured",
    },
    "ESAM": {"rho": 0.05, "beta": 0.6, "gamma": 0.5},
    "LookSAM": {"rho": 0.05, "k": 5, "alpha": 0.7},
    "AESAM": {"rho": 0.05, "lambda1": -1.0, "lambda2": 1.0, "decay": 0.9},
    "AELookSAM": {
        "rho": 0.05,
        "lambda1": -1.0,
        "lambda2": 1.0,
        "decay": 0.9,
        "alpha": 0.7,
    },
    "KSAM": {"rho": 0.05, "k": 0.5},
    "AUSAM": {"rho": 0.05, "share": 0.5},
    "FriendlySAM": {"rho": 0.05, "sigma": 1.0, "decay": 0.9},
    "BiSAM": {"rho": 0.05, "mu": 1.0, "phi": "log", "alpha": 0.1},
    "GAM": {
        "rho": 0.2,
        "grad_rho": 0.02,
        "b1": 1.0,
        "b2": -1.0,
        "b3": 1.0,
        "gamma": 0.03,
    },
    "AMP": {"epsilon": 0.5, "inner_lr": 1.0, "inner_iter": 1},
    "ImbSAM": {"rho": 0.05, "eta": 20.0, "tail_weight": 2.0},
    "DeltaSAM": {"rho": 0.05},
    "SmoothOut": {"a": 0.006, "scale": None},
    "EntropySGD": {
        "steps": 20,
        "gamma0": 0.03,
        "gamma1": 1e-3,
        "noise": 1e-4,
    },
    "SLSAM": {"rho": 0.01, "share": 0.2},
    "MomentumSAM": {"rho": 0.3, "momentum": 0.9},
    "VaSSO": {"rho": 0.05, "theta": 0.9},
    "WSAM": {"rho": 0.05, "gamma": 0.9, "decouple": True},
    "AsyncSAM": {"rho": 0.05},
}


@pytest.mark.parametrize("name", methods.NAMES)
def test_by_name_with_documented_defaults_in_order(name):
    kind = methods.NAMES[name]
    expected = DEFAULTS[kind.__name__]
    if kind is methods.ImbSAM:
        with pytest.raises(ValueError, match=r"class_counts.*Received: None"):
            methods.get(name)
        method = kind([10, 5])
        expected = {"class_counts": [10, 5], **expected}
    else:
        method = methods.get(name)
    assert method.get_config() == expected
    assert list(method.get_config()) == list(expected)
    positional = kind(*expected.values())
    assert positional == method


@pytest.mark.parametrize("name", sorted(set(methods.NAMES) - {"imbsam"}))
def test_radius_by_name(name):
    if "rho" not in DEFAULTS[methods.NAMES[name].__name__]:
        with pytest.raises(ValueError, match="has no radius"):
            methods.get(name, rho=0.7)
        return
    method = methods.get(name, rho=0.7)
    assert method.rho == 0.7
    assert method != methods.get(name)


@pytest.mark.parametrize("name", ["looksam", "look-sam", "look_sam"])
def test_names_without_doubt(name):
    assert methods.get(name) == methods.LookSAM()


OPTIMIZERS = {
    "sgd": {"momentum": 0.9, "nesterov": True, "weight_decay": 0.01},
    "adam": {"clipnorm": 0.5},
    "adamw": {"amsgrad": True},
    "rmsprop": {"momentum": 0.9, "centered": True},
    "lion": {},
    "adagrad": {},
    "adadelta": {},
    "adamax": {},
    "ftrl": {},
    "adafactor": {"global_clipnorm": 0.5},
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_update_is_foreseen_exactly(name):
    """As SAMPa needs it: momentum, weight decay, clipping, constraints."""
    network = dense_network()
    network.layers[0].kernel.constraint = keras.constraints.MaxNorm(0.3)
    optimizer = keras.optimizers.get(
        {
            "class_name": name,
            "config": {"learning_rate": 0.1, **OPTIMIZERS[name]},
        }
    )
    variables = network.trainable_variables
    optimizer.build(variables)
    generator = np.random.default_rng(0)
    for _ in range(3):
        gradients = [
            keras.ops.convert_to_tensor(
                generator.normal(size=v.shape), "float32"
            )
            for v in variables
        ]
        before = [v.numpy() for v in optimizer.variables]
        foreseen = predict_update(optimizer, gradients, variables)
        for old, new in zip(before, optimizer.variables, strict=True):
            np.testing.assert_array_equal(old, new.numpy())
        optimizer.apply(gradients, variables)
        for value, variable in zip(foreseen, variables, strict=True):
            # PyTorch updates all at once, and rounds otherwise.
            tolerance = 1e-6 if BACKEND == "torch" else 0.0
            np.testing.assert_allclose(
                to_numpy(value), variable.numpy(), rtol=0, atol=tolerance
            )


@pytest.mark.parametrize(
    "optimizer",
    [
        keras.optimizers.SGD(0.1, momentum=0.9, gradient_accumulation_steps=2),
        keras.optimizers.Nadam(0.1),
    ],
    ids=["accumulating", "nadam"],
)
def test_what_cannot_be_foreseen_is_gradient_descent(optimizer):
    network = dense_network()
    variables = network.trainable_variables
    optimizer.build(variables)
    ones = [keras.ops.ones(v.shape) for v in variables]
    foreseen = predict_update(optimizer, ones, variables)
    for value, variable in zip(foreseen, variables, strict=True):
        expected = variable.numpy() - 0.1
        np.testing.assert_allclose(to_numpy(value), expected, atol=1e-7)


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
    network, twin = dense_network(), dense_network()
    model = LWSAMModel(network, Thrice(), layers="all")
    model.compile(keras.optimizers.SGD(0.1), cross_entropy(), **mode)
    log = model.train_on_batch(X, Y, return_dict=True)

    def evaluate():
        def compute():
            return cross_entropy()(Y, twin(X, training=True)), None

        (loss, _), gradients = differentiated(twin, compute)
        return float(to_numpy(loss)), list(map(to_numpy, gradients))

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
