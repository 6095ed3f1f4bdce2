"""Properties that every perturbation and combination has."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from keras import ops

from keras_lwsam import _tensors
from keras_lwsam.combinations import mix
from keras_lwsam.perturbations import along_gradient

NUMBERS = st.just(0.0) | st.floats(1e-3, 1e3) | st.floats(-1e3, -1e-3)
TENSORS = st.lists(
    st.none()
    | arrays.arrays(
        "float32",
        arrays.array_shapes(max_dims=3, max_side=4),
        elements=NUMBERS.map(np.float32),
    ),
    min_size=1,
    max_size=4,
)
RADII = st.floats(1e-3, 10.0)


def tensors(arrays_or_none):
    return [
        None if a is None else ops.convert_to_tensor(a) for a in arrays_or_none
    ]


def present(list_of_tensors):
    return [ops.convert_to_numpy(t) for t in list_of_tensors if t is not None]


def norm(list_of_tensors):
    squares = [np.sum(np.square(t, dtype="float64")) for t in list_of_tensors]
    return float(np.sqrt(sum(squares)))


@settings(max_examples=60, deadline=None)
@given(gradients=TENSORS, rho=RADII)
def test_norm_is_rho_and_direction_is_the_gradient(gradients, rho):
    epsilon = along_gradient(tensors(gradients), rho)
    assert [e is None for e in epsilon] == [g is None for g in gradients]
    length = norm(present(gradients))
    for e, g in zip(present(epsilon), present(gradients), strict=True):
        expected = rho * g / length if length else np.zeros_like(g)
        np.testing.assert_allclose(e, expected, rtol=1e-5, atol=1e-7)
    expected = rho if length else 0.0
    assert norm(present(epsilon)) == pytest.approx(expected, rel=1e-5)


@settings(max_examples=60, deadline=None)
@given(gradients=TENSORS, rho=RADII, factor=st.floats(1e-3, 1e3))
def test_scale_of_the_loss_does_not_matter(gradients, rho, factor):
    once = along_gradient(tensors(gradients), rho)
    scaled = [None if g is None else g * np.float32(factor) for g in gradients]
    again = along_gradient(tensors(scaled), rho)
    for a, b in zip(present(once), present(again), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6 * rho)


@settings(max_examples=40, deadline=None)
@given(gradients=TENSORS, rho=RADII)
def test_linear_in_the_radius(gradients, rho):
    once = along_gradient(tensors(gradients), rho)
    twice = along_gradient(tensors(gradients), 2 * rho)
    for a, b in zip(present(once), present(twice), strict=True):
        np.testing.assert_allclose(2 * a, b, rtol=1e-5, atol=1e-7)


def test_zero_gradient_gives_zero_and_nothing_gives_nothing():
    epsilon = along_gradient([ops.zeros((2, 2)), None], 0.1)
    np.testing.assert_array_equal(epsilon[0], np.zeros((2, 2)))
    assert epsilon[1] is None
    assert along_gradient([None, None], 0.1) == [None, None]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_stays_so(bad):
    """Else loss scaling would not notice an overflow of the clean pass."""
    gradient = ops.convert_to_tensor(np.array([1.0, bad], "float32"))
    epsilon = ops.convert_to_numpy(along_gradient([gradient], 0.1)[0])
    assert not np.isfinite(epsilon).all()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_low_precision_is_computed_in_float32(dtype):
    gradient = ops.cast(np.full(100_000, 1.0, "float32"), dtype)
    epsilon = along_gradient([gradient], 0.05)[0]
    assert ops.dtype(epsilon) == "float32"
    assert norm([ops.convert_to_numpy(epsilon)]) == pytest.approx(0.05, 1e-4)
    value = ops.ones((100_000,), dtype)
    moved = _tensors.add([value], [epsilon])[0]
    assert ops.dtype(moved) == "float32"
    assert float(ops.min(moved)) > 1.0


@settings(max_examples=40, deadline=None)
@given(clean=TENSORS, alpha=st.floats(0.0, 1.0))
def test_mix(clean, alpha):
    sharp = [np.ones((2,), "float32") if c is None else -c for c in clean]
    mixed = mix(tensors(clean), tensors(sharp), alpha)
    for m, c, s in zip(mixed, clean, sharp, strict=True):
        expected = s if c is None else (1 - alpha) * c + alpha * s
        np.testing.assert_allclose(m, expected, rtol=1e-5, atol=1e-4)


def test_untouched_tensors_are_the_same_objects():
    """What makes the two passes share their prefix."""
    values = tensors([np.ones(2), np.ones(3)])
    displaced = _tensors.add(values, [None, ops.ones((3,))])
    assert displaced[0] is values[0]
    kept = _tensors.restrict(values, [1])
    assert kept[0] is None
    assert kept[1] is values[1]


def test_norm_of_an_empty_list():
    assert float(_tensors.global_norm([])) == 0.0
    assert float(_tensors.global_norm([None])) == 0.0


def test_norm_in_float64():
    value = ops.convert_to_tensor(np.array([3.0, 4.0]), "float64")
    assert ops.dtype(_tensors.global_norm([value])) == "float64"
