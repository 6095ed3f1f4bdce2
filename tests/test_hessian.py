"""Eigenvalues and trace of the Hessian: closed forms."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_lwsam import analysis
from tests.curvature import (
    Quadratic,
    compiled,
    eigenvalues_of,
    in_float64,
    random,
    written_out,
)


@pytest.mark.parametrize(("size_a", "size_b"), [(3, 2), (22, 4)])
@pytest.mark.not_torch
@in_float64()
def test_eigenvalues_of_a_quadratic(size_a, size_b):
    """Written out, iterated over as a whole, and iterated over by layer."""
    case = Quadratic(size_a, size_b, count=80, run_eagerly=False)
    objective = analysis.Objective(*case.data)
    for paths in (None, ["a"], ["b"]):
        block = case.block(paths)
        for k in (1, 4):
            if k <= len(block):
                np.testing.assert_allclose(
                    analysis.hessian_eigenvalues(objective, k=k, layers=paths),
                    eigenvalues_of(block, k),
                    rtol=1e-3,
                )
        everything = analysis.hessian_eigenvalues(
            objective, k=len(block), layers=paths
        )
        np.testing.assert_allclose(
            everything, eigenvalues_of(block, None), atol=1e-12
        )
    tight = analysis.hessian_eigenvalues(objective, k=2, tol=1e-10, seed=5)
    np.testing.assert_allclose(
        tight, eigenvalues_of(case.hessian, 2), rtol=1e-9
    )


@pytest.mark.parametrize(
    "size",
    [
        12,
        pytest.param(3, marks=pytest.mark.exhaustive),
        pytest.param(30, marks=pytest.mark.exhaustive),
    ],
)
@pytest.mark.not_torch
@in_float64()
def test_repeated_eigenvalues_are_all_found(size):
    """Each is there once for every output."""
    case = Quadratic(size, size, outputs=3, count=100, run_eagerly=False)
    objective = analysis.Objective(*case.data)
    for paths in (None, ["b"]):
        np.testing.assert_allclose(
            analysis.hessian_eigenvalues(objective, k=5, layers=paths),
            eigenvalues_of(case.block(paths), 5),
            rtol=1e-3,
        )


@pytest.mark.not_jax
@pytest.mark.parametrize("size", [3, 12])
@pytest.mark.not_torch
@in_float64()
def test_eigenvalues_grow_with_the_loss(size):
    """All negative, all zero, tiny, huge."""
    factor = keras.Variable(1.0)

    def loss(y, predictions):
        return factor * ops.mean(ops.square(y - predictions), axis=-1)

    case = Quadratic(size, size, loss=loss, run_eagerly=size < 10)
    objective = analysis.Objective(*case.data)
    for number in (-1.0, 0.0, 1e-6, 1e6):
        factor.assign(number)
        np.testing.assert_allclose(
            analysis.hessian_eigenvalues(objective, k=3),
            eigenvalues_of(number * case.hessian, 3),
            rtol=1e-3,
            atol=1e-12 * abs(number),
        )


def test_few_samples_leave_a_hessian_of_low_rank():
    """In float32, where the other eigenvalues are noise."""
    case = Quadratic(20, 20, count=2, run_eagerly=False)
    found = analysis.hessian_eigenvalues(*case.data, k=4)
    np.testing.assert_allclose(
        found, eigenvalues_of(case.hessian, 4), rtol=1e-3, atol=1e-4
    )
    assert found[1] > 1.0


@pytest.mark.not_jax
@pytest.mark.not_torch
@in_float64()
def test_the_trace_of_a_diagonal_hessian_is_exact():
    network = keras.Sequential(
        [keras.Input((3,)), layers.Dense(2, use_bias=False)]
    )
    x = np.diag([3.0, 2.0, 1.0])
    found = analysis.hessian_trace(
        compiled(network), x, np.zeros((3, 2)), num_samples=3
    )
    # 2 / 6 of the squares, once for each output.
    np.testing.assert_allclose(found.mean, 2.0 * 14.0 / 3.0, rtol=1e-14)
    assert found.error < 1e-14


@pytest.mark.not_torch
@in_float64()
def test_eigenvalues_of_a_saddle():
    network = keras.Sequential(
        [
            keras.Input((1,)),
            layers.Dense(1, use_bias=False, kernel_initializer="zeros"),
            layers.Dense(1, use_bias=False, kernel_initializer="zeros"),
        ]
    )
    one = np.ones((1, 1))
    found = analysis.hessian_eigenvalues(compiled(network), one, one, k=2)
    np.testing.assert_allclose(found, [2.0, -2.0], atol=1e-14)


@pytest.mark.not_jax
@pytest.mark.not_torch
@in_float64()
def test_blocks_of_a_linear_network_of_two_layers():
    network = keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(3, use_bias=False, name="first"),
            layers.Dense(2, use_bias=False, name="second"),
        ],
        name="net",
    )
    first, second = network.get_weights()
    x, y = random(20, 4), random(20, 2, seed=1)
    objective = analysis.Objective(compiled(network), x, y)
    hidden = x @ first
    blocks = {
        "net/first": np.kron(x.T @ x, second @ second.T),
        "net/second": np.kron(hidden.T @ hidden, np.eye(2)),
    }
    hessian = written_out(objective)
    for path, block in blocks.items():
        places = objective.places(path)
        np.testing.assert_allclose(
            hessian[np.ix_(places, places)], 2.0 * block / 40.0, atol=1e-13
        )
        np.testing.assert_allclose(
            analysis.hessian_eigenvalues(objective, k=3, layers=path),
            eigenvalues_of(2.0 * block / 40.0, 3),
            rtol=1e-9,
        )
