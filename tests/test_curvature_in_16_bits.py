"""Curvature of layers of 16 bits, which are looked at in float32."""

import functools

import keras
import numpy as np
import pytest

from keras_lwsam import analysis
from tests.curvature import (
    compiled,
    random,
)
from tests.support import (
    dense_network,
)


@functools.cache
def pair_of(policy, scale=1.0):
    """Objectives of a network of a policy, and of its copy in float32."""
    keras.config.set_dtype_policy(policy)
    network = compiled(dense_network(sizes=(3, 2, 3)))
    keras.config.set_dtype_policy("float32")
    copy = compiled(dense_network(sizes=(3, 2, 3)))
    copy.set_weights([w.astype("float32") for w in network.get_weights()])
    x, y = random(20, 3), scale * random(20, 3, seed=1)
    return [analysis.Objective(model, x, y) for model in (network, copy)]


POLICIES = {
    "mixed_float16": 5e-3,
    "mixed_bfloat16": 3e-2,
    "float16": 5e-3,
    "bfloat16": 3e-2,
}


@pytest.mark.parametrize(
    "policy",
    [
        "mixed_float16",
        "bfloat16",
        pytest.param("mixed_bfloat16", marks=pytest.mark.exhaustive),
        pytest.param("float16", marks=pytest.mark.exhaustive),
    ],
)
def test_16_bits_are_close_to_32(policy):
    low, high = pair_of(policy)
    vector = random(low.size) / np.sqrt(low.size)
    for function in (
        lambda objective: objective.product(vector),
        lambda objective: objective.gradient(),
        lambda objective: analysis.hessian_eigenvalues(objective, k=2),
        lambda objective: analysis.hessian_trace(objective, num_samples=3).mean,
        lambda objective: analysis.sharpness(objective, rho=0.1),
    ):
        expected = function(high)
        error = np.linalg.norm(function(low) - expected)
        assert error < POLICIES[policy] * np.linalg.norm(expected)


@pytest.mark.parametrize("policy", ["float16", "bfloat16"])
def test_rounding_to_16_bits_is_not_a_rise(policy):
    """Both losses of a difference are those of the same precision."""
    low, high = pair_of(policy)
    still = analysis.average_sharpness(low, stddev=0.0, num_samples=2)
    assert still == (0.0, 0.0)
    found, expected = (
        analysis.average_sharpness(objective, num_samples=5).mean
        for objective in (low, high)
    )
    assert found == pytest.approx(expected, rel=2e-2)


def test_gradients_beyond_float16():
    """The loss scale of an optimizer that has not adapted it is too large."""
    low, high = pair_of("mixed_float16", scale=100.0)
    expected = high.gradient()
    error = np.linalg.norm(low.gradient() - expected)
    assert error < 2e-3 * np.linalg.norm(expected)
    assert analysis.sharpness(low) == pytest.approx(
        analysis.sharpness(high), rel=2e-2
    )


def test_products_of_small_vectors_in_float16():
    """An entry of a vector of length 1 is small where weights are many."""
    low, high = pair_of("mixed_float16")
    vector = 1e-2 * random(low.size) / np.sqrt(low.size)
    expected = high.product(vector)
    error = np.linalg.norm(low.product(vector) - expected)
    assert error < 5e-3 * np.linalg.norm(expected)
