"""Low precision for every method: as in float32, and overflows are skipped."""

import functools
import itertools
import re

import keras
import numpy as np
import pytest
from keras import tree

from keras_lwsam import LWSAMModel, methods
from tests.cases import CASES, KINDS, daily, methods_daily
from tests.support import (
    MODES,
    assert_equal,
    cross_entropy,
    dense_network,
    momentum_sgd,
    train_on_batch,
    weights_of,
)

# How far a run may end from that in float32, as a share of what the method
# does there: of the distance to plain SGD. SGD itself is 1 away. What rounding
# leaves (2**-12 of a number in float16, 2**-9 in bfloat16) weighs most where
# the method does least, a twentieth of SGD's way: AsyncSAM was 0.02 away in
# mixed_float16, 0.20 in mixed_bfloat16 and 0.22 in bfloat16. With float64 the
# loss is computed in float32 still.
TOLERANCES = {
    "mixed_float16": 0.04,
    "mixed_bfloat16": 0.25,
    "bfloat16": 0.3,
    "float64": 1e-3,
}

# What they do is to choose samples or variables above all; by SAM's measure
# the perturbation counts, too.
CHOOSERS = ("esam", "ksam", "ausam", "imbsam", "slsam")

# A loop and a condition of the graph.
TRACED = {("entropy_sgd", "mixed_float16"), ("ae_look_sam", "bfloat16")}

SIZES = (10, 8, 4)
# Inputs that bfloat16 can hold, and losses of samples that no precision here
# puts in another order.
GENERATOR = np.random.default_rng(6)
X = GENERATOR.integers(-16, 17, (96, 10)).astype("float32") / 8
Y = GENERATOR.integers(0, 4, 96)


def batch(number, size=8):
    return (a[size * number : size * (number + 1)] for a in (X, Y))


def memory_of(model):
    """What the method and the wrapper remember from step to step."""
    names = re.compile(r"memory_\d+|norms|measured_steps")
    found = [
        v for v in model.non_trainable_variables if names.fullmatch(v.name)
    ]
    assert len(found) == 2 + len(tree.flatten(model._state._memory))
    return found


def in_bfloat16(array):
    """The nearest numbers that bfloat16 can hold, in float32."""
    rounded = keras.ops.cast(array, "bfloat16")
    return keras.ops.convert_to_numpy(keras.ops.cast(rounded, "float32"))


@functools.cache
def trained(name, policy, mode="eager"):
    """Weights and logs after three steps of a method; `None`: of plain SGD.

    From weights that bfloat16 can hold, at a rate that makes the steps long
    next to its rounding.
    """
    keras.config.set_dtype_policy("float32")
    start = weights_of(dense_network(sizes=SIZES))
    keras.config.set_dtype_policy(policy)
    network = dense_network(sizes=SIZES)
    network.set_weights([in_bfloat16(w) for w in start])
    method = CASES[name].make() if name else methods.SAM(0.0)
    model = LWSAMModel(network, method, layers="all")
    model.compile(momentum_sgd(1.0), cross_entropy(), **MODES[mode])
    scales = isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    assert scales == (policy == "mixed_float16")
    logs = [train_on_batch(model, *batch(i, 16)) for i in range(3)]
    assert {v.dtype for v in memory_of(model)} <= {"float32", "float64"}
    weights = [np.asarray(w, "float64").ravel() for w in weights_of(network)]
    return np.concatenate(weights), logs


UNIFORM = keras.random.uniform


def uniform(shape, minval=0.0, maxval=1.0, dtype="float32", seed=None):
    """Draws of float32, also for float64, whose own draws are others."""
    draws = UNIFORM(shape, minval, maxval, "float32", seed)
    return keras.ops.cast(draws, dtype)


@pytest.mark.parametrize(
    ("name", "policy", "mode"),
    daily(
        itertools.product(CASES, TOLERANCES, ("eager", "graph")),
        lambda name, policy, mode: (
            (name, policy) in TRACED
            if mode == "graph"
            else policy == "mixed_float16" and name in KINDS
        ),
    ),
)
def test_close_to_float32(name, policy, mode, monkeypatch):
    """So close that plain SGD in the method's place is far off."""
    monkeypatch.setattr(keras.random, "uniform", uniform)
    sgd, _ = trained(None, "float32")
    names = (name, "sam") if name in CHOOSERS else (name,)
    unit = min(np.linalg.norm(trained(n, "float32")[0] - sgd) for n in names)
    exact, exact_logs = trained(name, "float32")
    weights, logs = trained(name, policy, mode)
    plain, _ = trained(None, policy)
    assert np.linalg.norm(weights - exact) < TOLERANCES[policy] * unit
    assert np.linalg.norm(plain - exact) > 0.8 * unit
    assert np.isfinite([list(log.values()) for log in logs]).all()
    for log, exact_log in zip(logs, exact_logs, strict=True):
        assert log["sharpness"] != 0.0 or exact_log["sharpness"] == 0.0


@pytest.mark.not_jax
@methods_daily(KINDS)
def test_bfloat16_weights_are_perturbed_in_float32(name):
    """A layer is called with values that bfloat16 cannot hold."""
    seen = []

    class Spy(keras.layers.Dense):
        def call(self, inputs, training=None):
            if training:
                seen.append(keras.ops.convert_to_numpy(self.kernel))
            return super().call(inputs)

    keras.config.set_dtype_policy("bfloat16")
    network = keras.Sequential([keras.Input((10,)), Spy(4)])
    model = LWSAMModel(network, CASES[name].make(), layers="all")
    model.compile(momentum_sgd(), cross_entropy(), run_eagerly=True)
    for i in range(3):
        model.train_on_batch(*batch(i))
    # A sparse mask leaves half of the entries where they are.
    assert max(np.mean(in_bfloat16(k) != k) for k in seen) > 0.4


class Fuse(keras.layers.Layer):
    """Hands on what it is given; of the gradients, one overflows: `fatal`."""

    fatal, seen = None, 0

    def blows(self):
        """Whether it was among those of the step."""
        return self.fatal is not None and self.seen > self.fatal

    def call(self, inputs, training=None):
        if not training:
            return inputs

        @keras.ops.custom_gradient
        def hand_on(x):
            def gradient(*arguments, upstream=None):
                # Some backends give what `hand_on` was given, too.
                (upstream,) = arguments or (upstream,)
                is_fatal = self.seen == self.fatal
                self.seen += 1
                return upstream * 6e4 * 6e4 if is_fatal else upstream

            return x * 1.0, gradient

        return hand_on(inputs)


def compiled(method, fuse=None, position=None, mode="eager", **kwargs):
    """A model in mixed_float16, perhaps with a fuse at a position."""
    keras.config.set_dtype_policy("mixed_float16")
    layers = dense_network(sizes=SIZES).layers
    if fuse:
        layers.insert(position or len(layers), fuse)
    network = keras.Sequential([keras.Input((10,)), *layers])
    model = LWSAMModel(network, method, **{"layers": "all", **kwargs})
    model.compile(momentum_sgd(), cross_entropy(), **MODES[mode])
    model.optimizer.build(model.trainable_variables)
    return model


def is_skipped(model, x, y, scale=2.0**15):
    """Takes a step, which is skipped bit for bit, or finite and effective."""
    model.optimizer.dynamic_scale.assign(scale)
    slots = model.optimizer.inner_optimizer.variables
    watched = [*model.trainable_variables, *slots, *memory_of(model)]
    count = len(model.trainable_variables)
    before = [v.numpy() for v in watched]
    log = train_on_batch(model, x, y)
    after = [v.numpy() for v in watched]
    now = float(model.optimizer.dynamic_scale)
    if now == scale / 2:
        assert_equal(after, before)
        assert log["sharpness"] == log["gradient_norm"] == 0.0
        return True
    assert now == scale
    assert all(np.isfinite(array).all() for array in after)
    assert any((after[i] != before[i]).any() for i in range(count))
    return False


@pytest.mark.not_jax
@methods_daily(KINDS)
def test_an_overflow_in_any_one_pass_skips_the_step(name):
    """In steps of every phase; the others go on."""
    for fatal in range(CASES[name].passes[1]):
        fuse = Fuse()
        model = compiled(CASES[name].make(), fuse)
        skipped = 0
        for i, has_overflow in enumerate((1, 0, 1, 1, 0)):
            # The first step of SAMPa makes no use of its second gradient.
            is_used = (name, fatal, i) != ("sampa", 1, 0)
            fuse.seen = 0
            fuse.fatal = fatal if has_overflow and is_used else None
            assert is_skipped(model, *batch(i)) == fuse.blows()
            skipped += fuse.blows()
        assert skipped


@pytest.mark.parametrize(
    ("name", "mode"),
    daily(
        itertools.product(CASES, MODES),
        lambda name, mode: (name, mode) == ("ae_look_sam", "graph"),
    ),
)
def test_an_overflow_in_all_passes_skips_the_step(name, mode):
    """Of the scaled gradients, or of the inputs."""
    model = compiled(CASES[name].make(), mode=mode)
    assert not is_skipped(model, *batch(0))
    assert is_skipped(model, *batch(1), scale=2.0**100)
    assert not is_skipped(model, *batch(2))
    x, y = batch(3)
    assert is_skipped(model, 1e5 * x, y)
    # SAMPa comes back to those inputs once.
    assert is_skipped(model, *batch(4)) == (name == "sampa")
    assert not is_skipped(model, *batch(5))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ["sam", "wsam"])
def test_an_overflow_at_the_perturbed_weights_skips_the_step(name, mode):
    """Also where the optimizer is given the clean gradient: logits of 65408
    are finite in float16, those a little further up are not.
    """
    keras.config.set_dtype_policy("mixed_float16")
    dense = keras.layers.Dense(2, use_bias=False)
    network = keras.Sequential([keras.Input((1,)), dense])
    dense.kernel.assign([[0.0, 109.0]])
    model = LWSAMModel(network, name, rho=1.0, layers="all")
    model.compile(momentum_sgd(), cross_entropy(), **MODES[mode])
    model.optimizer.build(model.trainable_variables)
    x, y = np.full((2, 1), 600.0, "float32"), np.zeros(2, "int64")
    assert is_skipped(model, x, y, scale=1.0)
    assert np.isfinite(float(model.get_metrics_result()["loss"]))
    assert not is_skipped(model, x / 600.0, y, scale=1.0)


@pytest.mark.not_jax
def test_an_overflow_in_a_variable_that_is_not_active_skips_the_step():
    """SLSAM: else the weights would move on, and its probabilities not."""
    fuse = Fuse()
    model = compiled(methods.SLSAM(0.1, share=0.5), fuse, position=1)
    for i in range(6):
        fuse.fatal, fuse.seen = 1, 0
        assert is_skipped(model, *batch(i))


@pytest.mark.not_jax
@pytest.mark.parametrize(
    "name", ["sam", "friendly_sam", "vasso", "esam", "fisher_sparse_sam"]
)
def test_an_overflow_outside_the_selection_skips_the_step(name):
    """Of the norm that divides; and it does not stay in an average."""
    fuse = Fuse()
    options = {"layers": "dense2", "perturbation_norm": "all"}
    model = compiled(CASES[name].make(), fuse, position=1, **options)
    for i, fatal in enumerate((None, None, 0, None)):
        fuse.fatal, fuse.seen = fatal, 0
        # One sample: infinities of one sign, which do not cancel to NaN.
        assert is_skipped(model, *batch(i, 1)) == fuse.blows()


@pytest.mark.parametrize("name", ["esam", "ksam"])
def test_a_sample_that_overflows_is_among_the_largest(name):
    """So that its step is skipped, and no other is chosen in disorder."""
    model = compiled(CASES[name].make())
    for i in range(8):
        x, y = batch(i)
        x = np.where(np.arange(8)[:, None] == i, 1e5 * x, x)
        assert is_skipped(model, x, y)
