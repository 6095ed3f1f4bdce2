"""How many passes each method takes: counted, not timed."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

from benchmarks import operations
from keras_lwsam import LWSAMModel, methods, schedules
from keras_lwsam._engines.tensorflow import TensorFlowEngine
from tests.cases import CASES
from tests.support import cross_entropy, momentum_sgd

pytestmark = pytest.mark.tensorflow

GENERATOR = np.random.default_rng(0)
X = GENERATOR.normal(size=(8, 6, 6, 2)).astype("float32")
Y = GENERATOR.integers(0, 4, 8)

# Methods whose passes are not the same in every step, or run in a loop of the
# graph, of which the body counts once.
UNEQUAL = ("look_sam", "fisher_sparse_sam", "entropy_sgd")


def network():
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((6, 6, 2)),
            keras.layers.Conv2D(3, 3, activation="tanh", name="first"),
            keras.layers.Conv2D(3, 3, activation="tanh", name="second"),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(4, name="logits"),
        ]
    )


def model_of(method, **kwargs):
    layers = kwargs.pop("layers", "all")
    schedule = kwargs.pop("schedule", None)
    model = LWSAMModel(network(), method, layers=layers, schedule=schedule)
    model.compile(momentum_sgd(), cross_entropy(), **kwargs)
    return model


@functools.cache
def plain():
    model = network()
    model.compile(momentum_sgd(), cross_entropy())
    return operations.executed(model, X, Y)


def passes(model):
    """Forward and backward passes of the next step, if it is a new one."""
    counts = operations.executed(model, X, Y)
    return (
        counts["convolution"] / plain()["convolution"],
        counts["convolution_backward"] / plain()["convolution_backward"],
    )


@pytest.mark.parametrize("name", [n for n in CASES if n not in UNEQUAL])
def test_a_step_takes_the_passes_that_its_card_says(name):
    assert passes(model_of(CASES[name].make())) == CASES[name].passes


# A step that was compiled before is not counted again.
KNOWN = (0, 0)


def test_looksam_takes_one_gradient_between_its_looks():
    model = model_of(methods.LookSAM(k=3))
    assert [passes(model) for _ in range(4)] == [(2, 2), (1, 1), KNOWN, KNOWN]


def test_fisher_masks_are_measured_only_when_they_are_due():
    model = model_of(methods.FisherSparseSAM(num_samples=4, refresh=2))
    taken = [passes(model) for _ in range(4)]
    # The loop over single samples counts once.
    assert taken == [(3, 3), (2, 2), (3, 3), KNOWN]


def test_entropy_sgd_is_a_first_step_and_a_loop():
    assert passes(model_of(methods.EntropySGD(steps=7))) == (2, 2)


@pytest.mark.parametrize("name", ["sam", "gam", "momentum_sam", "ksam"])
def test_scheduled_steps_without_perturbation_take_one_gradient(name):
    method = CASES[name].make()
    model = model_of(method, schedule=schedules.EverySteps(2))
    taken = [passes(model) for _ in range(3)]
    assert taken == [CASES[name].passes, (1, 1), KNOWN]


def ancestors(tensor):
    """Names of all operations that a tensor of a graph depends on."""
    found, waiting = set(), [tensor.op]
    while waiting:
        operation = waiting.pop()
        if operation.name not in found:
            found.add(operation.name)
            waiting += [t.op for t in operation.inputs]
            waiting += operation.control_inputs
    return found


@pytest.mark.parametrize(("name", "waits"), [("sampa", False), ("sam", True)])
def test_the_gradients_of_sampa_do_not_wait_for_each_other(
    name, waits, monkeypatch
):
    """Neither depends on the other, so both may run at the same time."""
    evaluations, gradients = [], TensorFlowEngine.gradients

    def recorded(*args, **kwargs):
        evaluations.append(gradients(*args, **kwargs))
        return evaluations[-1]

    monkeypatch.setattr(TensorFlowEngine, "gradients", recorded)
    model = model_of(CASES[name].make())
    model.train_on_batch(X, Y)
    one, other = (e.gradients[-1] for e in evaluations)
    assert (one.op.name in ancestors(evaluations[1].loss)) == waits
    assert other.op.name not in ancestors(evaluations[0].loss)
    if not waits:
        shared = ancestors(one) & ancestors(other)
        assert not [name for name in shared if name.endswith("Conv2D")]


def counting_layer():
    """A layer, and a list that grows whenever it is really run forward."""
    runs = []

    @tf.custom_gradient
    def same(x):
        counted = tf.numpy_function(
            lambda x: (runs.append(1), x)[1], [x], x.dtype
        )
        counted.set_shape(x.shape)
        return counted, lambda gradient: gradient

    return keras.layers.Lambda(same), runs


@pytest.mark.parametrize("make", [methods.AESAM, methods.AELookSAM])
@pytest.mark.parametrize(("threshold", "expected"), [(-1e9, 2), (1e9, 1)])
def test_adaptive_policies_run_the_second_pass_only_if_they_need_it(
    make, threshold, expected
):
    counting, runs = counting_layer()
    net = keras.Sequential([*network().layers[:-1], counting])
    net.add(keras.layers.Dense(4))
    net.build((None, 6, 6, 2))
    model = LWSAMModel(
        net, make(lambda1=threshold, lambda2=threshold + 1), layers="all"
    )
    model.compile(momentum_sgd(), cross_entropy())
    model.train_on_batch(X, Y)
    runs.clear()
    for shift in range(3):
        model.train_on_batch(np.roll(X, shift, axis=0), Y)
    assert len(runs) == 3 * expected


def test_an_adaptive_policy_keeps_its_saving_in_xla():
    """The second pass is inside a branch of the compiled program."""
    model = model_of(methods.AESAM(), jit_compile=True)
    model.train_on_batch(X, Y)
    step = tf.function(lambda *data: model.train_step(data), jit_compile=True)
    text = step.experimental_get_compiler_ir(tf.constant(X), tf.constant(Y))(
        stage="optimized_hlo"
    )
    entry = text[text.index("\nENTRY") :]
    assert "conditional(" in text
    assert entry.count("convolution(") + entry.count("onednn$conv") <= 6
    assert text.count("convolution(") + text.count("onednn$conv") >= 10


@pytest.mark.parametrize(
    "k", [pytest.param(1, marks=pytest.mark.exhaustive), 2]
)
def test_looksam_in_xla(k):
    model = model_of(methods.LookSAM(k=k), jit_compile=True)
    first = operations.compiled_by_xla(model, X, Y)["convolution"]
    # The count steps once, and reads the step that follows.
    assert first == (10 if k == 1 else 5)
