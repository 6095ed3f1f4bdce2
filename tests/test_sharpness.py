"""Sharpness along the gradient and under noise: closed forms, bad input."""

import numpy as np
import pytest
from keras import ops

from keras_lwsam import analysis
from tests.curvature import (
    PATHS,
    Quadratic,
    compiled,
    in_float64,
    random,
)
from tests.support import (
    cross_entropy,
    dense_network,
)


@pytest.fixture(scope="module")
def quadratic():
    """A case that stays as it is, and an objective that is compiled."""
    with in_float64():
        case = Quadratic(outputs=2, run_eagerly=False)
        return case, analysis.Objective(*case.data)


@pytest.mark.not_jax
@pytest.mark.parametrize("paths", PATHS, ids=str)
@pytest.mark.not_torch
@in_float64()
def test_sharpness_of_a_quadratic(quadratic, paths):
    case, objective = quadratic
    gradient = np.where(case.places(paths), case.gradient, 0.0)
    for rho in (1e-3, 0.3):
        step = rho * gradient / np.linalg.norm(gradient)
        rise = case.gradient @ step + step @ case.hessian @ step / 2.0
        found = analysis.sharpness(objective, rho=rho, layers=paths)
        np.testing.assert_allclose(found, rise, rtol=1e-9)
    if paths and len(paths) == 1:
        alone = analysis.sharpness(objective, rho=rho, layers=paths[0])
        assert alone == found


@pytest.mark.parametrize("paths", [None, ["a"]], ids=str)
@pytest.mark.not_torch
@in_float64()
def test_estimates_of_a_quadratic(quadratic, paths):
    case, objective = quadratic
    trace = np.trace(case.block(paths))
    found = analysis.hessian_trace(objective, num_samples=50, layers=paths)
    assert 0.0 < found.error < 0.2 * trace
    assert abs(found.mean - trace) < 4.0 * found.error
    for stddev in (1e-3, 2.0):
        rise = stddev**2 / 2.0 * trace
        found = analysis.average_sharpness(
            objective, stddev=stddev, num_samples=50, layers=paths
        )
        assert 0.0 < found.error < 0.2 * rise
        assert abs(found.mean - rise) < 4.0 * found.error


@pytest.mark.not_torch
@in_float64()
def test_draws_are_those_of_the_seed(quadratic):
    _, objective = quadratic
    for estimate in (analysis.average_sharpness, analysis.hessian_trace):
        one, same, other = (estimate(objective, seed=s) for s in (3, 3, 4))
        assert one == same
        assert one.mean != other.mean
        single = estimate(objective, num_samples=1)
        assert np.isfinite(single.mean)
        assert np.isnan(single.error)


@pytest.mark.not_torch
@in_float64()
def test_no_rise_without_a_step_or_a_slope():
    model, x, y = Quadratic().data
    assert analysis.sharpness(model, x, y, rho=0.0) == 0.0
    still = analysis.average_sharpness(model, x, y, stddev=0.0, num_samples=2)
    assert still == (0.0, 0.0)
    assert analysis.sharpness(model, x, model.predict(x, verbose=0)) == 0.0


@pytest.mark.not_jax
@pytest.mark.not_torch
@in_float64()
def test_sharpness_to_second_order():
    network = dense_network(sizes=(5, 6, 3))
    objective = analysis.Objective(
        compiled(network, cross_entropy()), random(20, 5), np.arange(20) % 3
    )
    for path in (None, "dense/dense1"):
        gradient = np.where(objective.places(path), objective.gradient(), 0.0)
        norm = np.linalg.norm(gradient)
        curvature = gradient @ objective.product(gradient) / norm**2
        rho = 1e-3
        rest = analysis.sharpness(objective, rho=rho, layers=path) - rho * norm
        np.testing.assert_allclose(rest, rho**2 / 2.0 * curvature, rtol=1e-2)


@pytest.fixture(scope="module")
def small():
    """A case that is only looked at."""
    return Quadratic()


ANY, POSITIVE = "must be a real number", "must be a positive int"

BAD = [
    (analysis.sharpness, {"rho": -0.1}, ValueError, "at least 0"),
    (analysis.sharpness, {"rho": np.inf}, ValueError, "finite"),
    (analysis.sharpness, {"rho": "0.1"}, TypeError, ANY),
    (analysis.sharpness, {"layers": "c"}, ValueError, "Received: layers='c'"),
    (analysis.sharpness, {"layers": []}, ValueError, r"layers=\[\]"),
    (analysis.sharpness, {"layers": 1}, TypeError, "`layers` must be"),
    (analysis.sharpness, {"batch_size": 0}, ValueError, POSITIVE),
    (analysis.sharpness, {"training": 1}, TypeError, "True or False"),
    (analysis.average_sharpness, {"stddev": -1}, ValueError, "at least 0"),
    (analysis.average_sharpness, {"num_samples": 0}, ValueError, POSITIVE),
    (analysis.average_sharpness, {"seed": -1}, ValueError, "non-negative"),
    (analysis.hessian_trace, {"num_samples": 1.5}, TypeError, POSITIVE),
    (analysis.hessian_trace, {"layers": ["a", "c"]}, ValueError, r"\['a', 'c'"),
    (analysis.hessian_eigenvalues, {"k": 0}, ValueError, POSITIVE),
    (analysis.hessian_eigenvalues, {"k": True}, TypeError, POSITIVE),
    (analysis.hessian_eigenvalues, {"k": 7}, ValueError, "k=7, for 6 weights"),
    (analysis.hessian_eigenvalues, {"tol": 0.0}, ValueError, "positive"),
    (analysis.hessian_eigenvalues, {"seed": 0.5}, TypeError, "non-negative"),
    (
        analysis.hessian_eigenvalues,
        {"max_products": 3},
        RuntimeError,
        "have not converged in 3",
    ),
]


@pytest.mark.parametrize(("function", "arguments", "error", "message"), BAD)
def test_bad_arguments(small, function, arguments, error, message):
    with pytest.raises(error, match=message):
        function(*small.data, **arguments)


@pytest.mark.parametrize("size", [3, 12])
def test_weights_that_are_not_finite(size):
    model, x, y = Quadratic(size, size).data
    kernel = model.get_layer("a").kernel
    kernel.assign(np.full(kernel.shape, np.nan))
    y = ops.zeros_like(y)
    bad = compiled(model, lambda y, p: ops.mean(p**4, axis=-1))
    with pytest.raises(RuntimeError, match="not finite"):
        analysis.hessian_eigenvalues(bad, x, y)
    assert np.isnan(analysis.sharpness(bad, x, y))
    for estimate in (analysis.average_sharpness, analysis.hessian_trace):
        assert np.isnan(estimate(bad, x, y, num_samples=2).mean)


def test_losses_beyond_float32_are_no_warning():
    model, x, y = Quadratic().data
    found = analysis.average_sharpness(model, x, y, stddev=1e19, num_samples=2)
    assert np.isinf(found.mean)
    assert np.isnan(found.error)
