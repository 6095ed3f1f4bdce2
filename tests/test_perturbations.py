"""Properties that every perturbation and combination has."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from keras import ops

from keras_lwsam import _tensors
from keras_lwsam.combinations import (
    mix,
    perpendicular,
    renormalize,
    surrogate_gap,
)
from keras_lwsam.methods import _masks, _samples
from keras_lwsam.methods.slsam import scaled_to
from keras_lwsam.perturbations import (
    adaptive,
    along_gradient,
    clipped_to_ball,
    masked,
)
from tests.backends import allowed_float64, to_numpy

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
@given(gradients=TENSORS, rho=RADII, factor=st.floats(1e-2, 1e2))
def test_adaptive(gradients, rho, factor):
    """`norm(eps / T)` is rho, whatever the scale of loss and T."""
    scales = [None if g is None else np.abs(g) + 0.5 for g in gradients]
    if len(scales) > 1:
        scales[0] = None
    epsilon = adaptive(tensors(gradients), tensors(scales), rho)
    assert [e is None for e in epsilon] == [g is None for g in gradients]
    undone = [
        e if t is None else e / ops.convert_to_tensor(t)
        for e, t in zip(epsilon, scales, strict=True)
        if e is not None
    ]
    undone = [ops.convert_to_numpy(u) for u in undone]
    expected = rho if norm(present(gradients)) else 0.0
    assert norm(undone) == pytest.approx(expected, rel=1e-4)
    scaled = [None if g is None else g * np.float32(factor) for g in gradients]
    again = adaptive(tensors(scaled), tensors(scales), rho)
    for a, b in zip(present(epsilon), present(again), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5 * rho)


def test_adaptive_with_equal_scales_is_sam():
    gradient = tensors([np.array([3.0, 4.0], "float32")])
    scales = tensors([np.array([2.0, 2.0], "float32")])
    np.testing.assert_allclose(
        adaptive(gradient, scales, 0.5)[0],
        2.0 * to_numpy(along_gradient(gradient, 0.5)[0]),
        rtol=1e-6,
    )


@settings(max_examples=40, deadline=None)
@given(gradients=TENSORS, rho=RADII, seed=st.integers(0, 99))
def test_masked(gradients, rho, seed):
    generator = np.random.default_rng(seed)
    masks = [
        None
        if g is None
        else generator.integers(0, 2, g.shape).astype("float32")
        for g in gradients
    ]
    epsilon = masked(tensors(gradients), tensors(masks), rho)
    assert norm(present(epsilon)) <= rho * (1 + 1e-5)
    whole = along_gradient(tensors(gradients), rho)
    for e, w, m in zip(
        present(epsilon), present(whole), present(tensors(masks)), strict=True
    ):
        np.testing.assert_allclose(e, w * m, rtol=1e-3, atol=1e-7)


@settings(max_examples=40, deadline=None)
@given(displacements=TENSORS, radius=RADII)
def test_clipped_to_ball(displacements, radius):
    clipped = clipped_to_ball(tensors(displacements), radius)
    for c, d in zip(
        present(clipped), present(tensors(displacements)), strict=True
    ):
        assert norm([c]) <= radius * (1 + 1e-5)
        if norm([d]) <= radius:
            np.testing.assert_array_equal(c, d)
        else:
            np.testing.assert_allclose(c, d * (radius / norm([d])), rtol=1e-4)


@settings(max_examples=40, deadline=None)
@given(gradients=TENSORS, seed=st.integers(0, 99))
def test_perpendicular_is_perpendicular(gradients, seed):
    generator = np.random.default_rng(seed)
    direction = [
        None if g is None else generator.normal(size=g.shape).astype("float32")
        for g in gradients
    ]
    part = present(perpendicular(tensors(gradients), tensors(direction)))
    product = sum(
        float(np.sum(p.astype("float64") * d))
        for p, d in zip(part, present(tensors(direction)), strict=True)
    )
    size = norm(present(gradients)) * norm(present(tensors(direction)))
    assert abs(product) <= 1e-5 * size + 1e-9


@settings(max_examples=40, deadline=None)
@given(clean=TENSORS, alpha=st.floats(0.0, 1.0), seed=st.integers(0, 99))
def test_surrogate_gap(clean, alpha, seed):
    """Where g is known g~ - alpha g_perp, g~ elsewhere; alpha 0 is SAM."""
    generator = np.random.default_rng(seed)
    sharp = [
        generator.normal(size=(2,) if c is None else c.shape).astype("float32")
        for c in clean
    ]
    result = surrogate_gap(tensors(clean), tensors(sharp), alpha)
    plain = surrogate_gap(tensors(clean), tensors(sharp), 0.0)
    known = [i for i, c in enumerate(clean) if c is not None]
    beside = perpendicular(
        [tensors(clean)[i] for i in known], [tensors(sharp)[i] for i in known]
    )
    for i, s in enumerate(sharp):
        np.testing.assert_array_equal(plain[i], s)
        if i not in known:
            np.testing.assert_array_equal(result[i], s)
    for i, b in zip(known, beside, strict=True):
        np.testing.assert_allclose(
            result[i], sharp[i] - alpha * to_numpy(b), rtol=1e-4, atol=1e-4
        )


@settings(max_examples=40, deadline=None)
@given(gradients=TENSORS, length=RADII)
def test_renormalize(gradients, length):
    """The selected ones together have the length; others are untouched."""
    selected = range(0, len(gradients), 2)
    given_tensors = tensors(gradients)
    result = renormalize(given_tensors, length, selected)
    chosen = present([result[i] for i in selected])
    before = present([given_tensors[i] for i in selected])
    expected = length if norm(before) else 0.0
    assert norm(chosen) == pytest.approx(expected, rel=1e-4)
    for i, tensor in enumerate(given_tensors):
        if i not in selected:
            assert result[i] is tensor


SCORES = st.integers(0, 999).map(
    lambda seed: [
        np.random.default_rng([seed, i]).random(shape, dtype="float32")
        for i, shape in enumerate([(3, 5), (5,), (2, 2, 3, 4), (4,)])
    ]
)


@settings(max_examples=30, deadline=None)
@given(scores=SCORES, share=st.floats(0.0, 1.0))
def test_masks_have_the_share_within_one_entry(scores, share):
    total = sum(s.size for s in scores)
    mask = present(_masks.largest(tensors(scores), share, "unstructured"))
    assert sum(m.sum() for m in mask) == int(total * share)
    kept = [s[m > 0] for s, m in zip(scores, mask, strict=True)]
    left = [s[m == 0] for s, m in zip(scores, mask, strict=True)]
    kept, left = np.concatenate(kept), np.concatenate(left)
    if len(kept) and len(left):
        assert kept.min() >= left.max()
    whole = present(_masks.largest(tensors(scores), share, "structured"))
    assert all(m.min() == m.max() for m in whole)
    assert sum(m.sum() for m in whole) >= int(total * share)
    runs = present(_masks.largest(tensors(scores), share, (2, 4)))
    for m in runs:
        if m.ndim < 2:
            assert m.all()
        else:
            axes = (m.ndim - 1, m.ndim - 2, *range(m.ndim - 2))
            flat = m.transpose(axes).ravel()
            for i in range(0, len(flat), 4):
                run = flat[i : i + 4]
                assert run.sum() == min(2, len(run))


@settings(max_examples=30, deadline=None)
@given(
    scores=SCORES,
    share=st.floats(0.05, 0.95),
    rate=st.floats(0.0, 1.0),
    pattern=st.sampled_from(["unstructured", (2, 4), (3, 4)]),
)
def test_regrown_masks_keep_their_count(scores, share, rate, pattern):
    """However many are dropped, also at a low sparsity."""
    start = _masks.at_random(tensors(scores), share, pattern, seed=1)
    after = _masks.regrown(start, tensors(scores), rate, share, pattern, seed=2)
    for one in (start, after):
        assert {float(v) for m in present(one) for v in np.unique(m)} <= {0, 1}
    old = np.concatenate([m.ravel() for m in present(start)])
    new = np.concatenate([m.ravel() for m in present(after)])
    assert old.sum() == new.sum()
    if pattern == "unstructured":
        dropped = ((old == 1) & (new == 0)).sum()
        assert dropped == min(
            int(np.float32(rate) * np.float32(old.sum())), (old == 0).sum()
        )


@settings(max_examples=30, deadline=None)
@given(scores=SCORES, share=st.floats(0.05, 0.95))
def test_whole_tensors_regrow_to_the_share(scores, share):
    total = sum(s.size for s in scores)
    start = _masks.at_random(tensors(scores), share, "structured", seed=1)
    same = _masks.regrown(start, tensors(scores), 0.0, share, "structured", 2)
    for a, b in zip(present(start), present(same), strict=True):
        np.testing.assert_array_equal(a, b)
    after = present(
        _masks.regrown(start, tensors(scores), 0.9, share, "structured", 2)
    )
    assert all(m.min() == m.max() for m in after)
    dead = sum(m.size for m in present(start) if not m.any())
    alive = sum(m.any() for m in present(start))
    if int(np.float32(0.9) * np.float32(alive)) and dead:
        assert any(
            (a != b).any() for a, b in zip(present(start), after, strict=True)
        )
    assert 0 < sum(m.sum() for m in after) <= total


@settings(max_examples=50, deadline=None)
@given(
    values=st.lists(st.floats(1e-6, 1.0), min_size=1, max_size=30),
    share=st.floats(0.02, 1.0),
)
def test_probabilities_are_scaled_to_their_sum(values, share):
    values = np.array(values, "float32")
    scaled = ops.convert_to_numpy(
        scaled_to(ops.convert_to_tensor(values), share * len(values))
    )
    assert scaled.max() <= 1.0
    assert scaled.sum() == pytest.approx(share * len(values), rel=1e-3)
    assert (np.diff(scaled[np.argsort(values)]) >= -1e-6).all()


def test_samples_are_drawn_in_proportion_to_their_weights():
    weights = ops.convert_to_tensor(np.array([1.0, 2.0, 5.0], "float32"))
    drawn = [
        int(_samples.drawn(weights, 1, seed=seed)[0]) for seed in range(600)
    ]
    counts = np.bincount(drawn, minlength=3) / 600
    np.testing.assert_allclose(counts, [1 / 8, 2 / 8, 5 / 8], atol=0.07)
    pair = ops.convert_to_numpy(_samples.drawn(weights, 2, seed=3))
    assert len(set(pair)) == 2
    assert list(pair) == sorted(pair)


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
    with allowed_float64():
        value = ops.convert_to_tensor(np.array([3.0, 4.0]), "float64")
        assert ops.dtype(_tensors.global_norm([value])) == "float64"
