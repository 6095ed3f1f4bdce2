"""Networks, methods, selections and optimizers that were drawn at random."""

import keras
import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from keras_lwsam import LWSAMModel, _keras
from tests.backends import traced
from tests.cases import CASES
from tests.random_networks import (
    build,
    keras_takes,
    look_of,
    make_method,
    make_optimizer,
    optimizers,
    random_states,
    recipes,
    suits,
    ways,
)
from tests.support import MODES, assert_equal

# Frozen parts, and tensors that nothing reads, have no gradient.
pytestmark = pytest.mark.filterwarnings("ignore:Gradients do not exist")

NAMES = sorted(CASES)
PLAIN = [name for name in NAMES if CASES[name].plain]


def drawn(examples):
    """Settings of a test of so many examples, always the same ones."""
    return settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


def values(variables):
    return [v.numpy() for v in variables]


def fit(model, optimizer, x, y, losses, **mode):
    """Two epochs of a batch of 4 samples and one of 2."""
    model.compile(make_optimizer(optimizer), losses, **mode)
    keras.utils.set_random_seed(1)
    return model.fit(
        x, y, batch_size=4, epochs=2, verbose=0, shuffle=False
    ).history


def check_identity(recipe, optimizer, way):
    """All variables and logs are those of `fit`, from one trace."""
    twin, x, y, losses = build(recipe)
    expected = fit(twin, optimizer, x, y, losses)
    network, *_ = build(recipe)
    model = LWSAMModel(network, **way)
    actual = fit(model, optimizer, x, y, losses)
    assert_equal(values(network.variables), values(twin.variables))
    assert_equal(
        values(model.optimizer.variables), values(twin.optimizer.variables)
    )
    assert actual.pop("sharpness") == [0.0, 0.0]
    assert actual.pop("gradient_norm") == [0.0, 0.0]
    assert actual == expected
    assert model.trace_count == traced(1, shapes=2)


def check_steps(name, recipe, optimizer, way):
    """Steps are finite, and change what `fit` changes and nothing else."""
    twin, x, y, losses = build(recipe)
    before = values(twin.variables)
    fit(twin, optimizer, x, y, losses, run_eagerly=True)
    changed = [
        (a != b).any()
        for a, b in zip(values(twin.variables), before, strict=True)
    ]
    network, *_ = build(recipe)
    assert_equal(values(network.variables), before)
    model = LWSAMModel(network, make_method(name), **way)
    look = look_of(network)
    history = fit(model, optimizer, x, y, losses, run_eagerly=True)
    states = random_states()
    after = values(network.variables)
    seeds = {id(v) for v in _keras.seed_states(network)}
    trained = {id(v) for v in network.trainable_variables}
    for v, new, old, like, may in zip(
        network.variables,
        after,
        before,
        values(twin.variables),
        changed,
        strict=True,
    ):
        if id(v) in seeds:
            np.testing.assert_array_equal(new, like, v.path)
        elif not may and id(v) not in trained:
            np.testing.assert_array_equal(new, old, v.path)
    assert look_of(network) == look
    everything = [*model.variables, *model.optimizer.variables]
    for v in everything:
        assert np.isfinite(np.asarray(v.numpy(), "float64")).all(), v.path
    assert np.isfinite(list(history.values())).all()
    assert int(model._state.steps_taken()) == model._training.clock.step == 4
    # Nothing was drawn from generators that are not Keras's.
    keras.utils.set_random_seed(1)
    assert states == random_states()


def identities(test):
    return given(
        recipe=recipes,
        optimizer=optimizers,
        way=st.one_of(
            st.builds(
                lambda name, way: {**way, "method": CASES[name].plain()},
                st.sampled_from(PLAIN),
                ways,
            ),
            st.builds(
                lambda name: {"method": make_method(name), "layers": []},
                st.sampled_from(NAMES),
            ),
        ),
    )(test)


def steps(test):
    return given(
        name=st.sampled_from(NAMES),
        recipe=recipes,
        optimizer=optimizers,
        way=ways,
    )(test)


@drawn(2)
@identities
def test_nothing_to_perturb_is_fit(recipe, optimizer, way):
    assume(keras_takes(recipe, optimizer))
    check_identity(recipe, optimizer, way)


@pytest.mark.exhaustive
@drawn(60)
@identities
def test_nothing_to_perturb_is_fit_in_many(recipe, optimizer, way):
    assume(keras_takes(recipe, optimizer))
    check_identity(recipe, optimizer, way)


@drawn(4)
@steps
def test_steps_change_what_they_may(name, recipe, optimizer, way):
    assume(suits(name, recipe, optimizer))
    check_steps(name, recipe, optimizer, way)


@pytest.mark.exhaustive
@drawn(200)
@steps
def test_steps_change_what_they_may_in_many(name, recipe, optimizer, way):
    assume(suits(name, recipe, optimizer))
    check_steps(name, recipe, optimizer, way)


@pytest.mark.parametrize("mode", ["graph", "eager"])
def test_branches_are_clipped_in_the_order_of_fit(mode):
    """The sum over all gradients depends on the order of the variables."""
    data = np.random.default_rng(0).normal(size=(64, 5)).astype("float32")
    ends = []
    for wrap in (False, True):
        keras.utils.set_random_seed(0)
        a, b = keras.Input((5,)), keras.Input((5,))
        deep = keras.layers.Dense(6)(keras.layers.Dense(6)(a))
        both = keras.layers.Concatenate()([deep, keras.layers.Dense(6)(b)])
        outputs = [keras.layers.Dense(3)(deep), keras.layers.Dense(2)(both)]
        network = keras.Model([a, b], outputs)
        model = LWSAMModel(network, rho=0.0) if wrap else network
        optimizer = keras.optimizers.SGD(0.1, global_clipnorm=0.1)
        model.compile(optimizer, ["mse", "mse"], **MODES[mode])
        y = [data[:, :3], data[:, 3:]]
        model.fit([data, data], y, 8, epochs=5, shuffle=False, verbose=0)
        ends.append(network.get_weights())
        assert [id(v) for v in model.trainable_variables] == [
            id(v) for v in network.trainable_variables
        ]
    assert_equal(ends[1], ends[0])
