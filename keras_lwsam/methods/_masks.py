"""Masks of zeros and ones: which entries of the weights are perturbed.

Scores and masks are lists of tensors with one entry a weight, `None` for
weights that take no part.
"""

import keras
import numpy as np
from keras import ops

from keras_lwsam._tensors import combine


def check_pattern(pattern):
    """`"unstructured"`, `"structured"`, or a pair (n, m) with 0 < n <= m."""
    if pattern in ("unstructured", "structured"):
        return pattern
    if (
        isinstance(pattern, (tuple, list))
        and len(pattern) == 2
        and all(isinstance(k, int | np.integer) for k in pattern)
        and 0 < pattern[0] <= pattern[1]
    ):
        return int(pattern[0]), int(pattern[1])
    raise ValueError(
        "`pattern` must be 'unstructured', 'structured', or a pair (n, m) of "
        "positive ints with n <= m: n entries are perturbed in each run of m. "
        f"Received: pattern={pattern!r}"
    )


def largest(scores, kept_share, pattern):
    """The mask of the entries with the largest scores.

    Args:
        scores: List of tensors.
        kept_share: Share of the entries to keep, a float in [0, 1]; the
            pattern (n, m) has its own.
        pattern: As `check_pattern` returns it.
    """
    scores = _in_float32(scores)
    if pattern == "unstructured":
        flat = _flat(scores)
        count = int(flat.shape[0] * kept_share)
        return _like(_top(flat, count), scores)
    if pattern == "structured":
        means = [ops.mean(s) for s in scores if s is not None]
        return _whole_tensors(scores, ops.stack(means), kept_share)
    return combine(lambda s: _largest_in_runs(s, pattern), scores)


def at_random(scores, kept_share, pattern, seed):
    """A random mask, of the size that `largest` has."""
    scores = _in_float32(scores)
    if pattern == "structured":
        draws = _draws(_number(scores), seed)
        return _whole_tensors(scores, draws, kept_share)
    return largest(_uniform_like(scores, seed), kept_share, pattern)


def regrown(masks, scores, drop_rate, kept_share, pattern, seed):
    """The mask after some of its entries were exchanged for others.

    A share `drop_rate` of the live entries, those with the smallest scores, is
    dropped, and as many that were dead before are grown at random; never more
    than there are dead ones. Whole tensors and runs are treated likewise.

    Args:
        masks: List of tensors of zeros and ones.
        scores: List of non-negative tensors.
        drop_rate: A scalar tensor in [0, 1].
        kept_share: Share of the entries to keep, for whole tensors.
        pattern: As `check_pattern` returns it.
        seed: A seed of `keras.random`.
    """
    masks, scores = _whole(masks), _in_float32(scores)
    if pattern == "structured":
        return _whole_tensors_exchanged(
            masks, scores, drop_rate, kept_share, seed
        )
    draws = _uniform_like(scores, seed)
    if pattern == "unstructured":
        live, order, draw = _flat(masks), _flat(scores), _flat(draws)
        return _like(_exchanged(live, order, draw, drop_rate), scores)

    def in_runs(mask, score, draw):
        if len(score.shape) < 2:
            return ops.ones_like(score)
        _, size = pattern
        parts = (_runs(t, size, 0.0) for t in (mask, score, draw))
        new = _exchanged(*parts, drop_rate, _runs(ops.ones_like(score), size))
        return _unruns(new, score.shape)

    return combine(in_runs, masks, scores, draws)


def _exchanged(live, scores, draws, drop_rate, exists=None):
    """Drops live entries of small scores and grows dead ones by chance.

    Along the last axis. `exists` is zero for padding, which is never grown.
    """
    exists = ops.ones_like(live) if exists is None else exists
    dead = exists - live
    alive = ops.sum(live, axis=-1, keepdims=True)
    dropped = ops.minimum(
        ops.floor(drop_rate * alive),
        ops.sum(dead, axis=-1, keepdims=True),
    )
    # Ranks from 0: the live of the largest scores, the dead of large draws.
    survives = _rank(ops.where(live > 0.0, scores, -1.0)) < alive - dropped
    grows = _rank(ops.where(dead > 0.0, draws, -1.0)) < dropped
    return live * ops.cast(survives, live.dtype) + dead * ops.cast(
        grows, live.dtype
    )


def _rank(values):
    """Position of each entry in descending order, along the last axis."""
    return ops.cast(
        ops.argsort(ops.argsort(-values, axis=-1), axis=-1), values.dtype
    )


def _whole_tensors(scores, order, kept_share):
    """Whole tensors in descending order, until the share is reached."""
    return _ones_where(_filling(scores, order, kept_share), scores)


def _whole_tensors_exchanged(masks, scores, drop_rate, kept_share, seed):
    """Drops whole tensors; grows others until the share is reached."""
    live = ops.stack([ops.max(m) for m in masks if m is not None])
    means = ops.stack([ops.mean(s) for s in scores if s is not None])
    alive = ops.sum(live)
    dropped = ops.minimum(ops.floor(drop_rate * alive), ops.sum(1.0 - live))
    ranks = _rank(ops.where(live > 0.0, means, -1.0))
    survives = live * ops.cast(ranks < alive - dropped, live.dtype)
    # The survivors come first, then the dead as they are drawn, and those
    # that were dropped not at all.
    draws = _draws(_number(scores), seed)
    order = ops.where(live > 0.0, 2.0 * survives - 1.0, draws)
    grows = (1.0 - live) * _filling(scores, order, kept_share)
    return _ones_where(survives + grows, scores)


def _filling(scores, order, kept_share):
    """Vector of ones for the tensors that reach the share, in this order."""
    sizes = [int(np.prod(s.shape)) for s in scores if s is not None]
    count = int(sum(sizes) * kept_share)
    ranking = ops.argsort(-order)
    ordered = ops.take(ops.convert_to_tensor(sizes, "float32"), ranking)
    before = ops.cumsum(ordered) - ordered
    kept = ops.cast(before < count, "float32")
    return ops.take(kept, ops.argsort(ranking))


def _ones_where(kept, scores):
    entries = iter(ops.unstack(kept))
    return [
        None if s is None else ops.ones_like(s) * next(entries) for s in scores
    ]


def _largest_in_runs(scores, pattern):
    count, size = pattern
    if len(scores.shape) < 2:
        return ops.ones_like(scores)
    ranks = _rank(_runs(scores, size, -1.0))
    return _unruns(ops.cast(ranks < count, scores.dtype), scores.shape)


def _runs(kernel, size, padding=0.0):
    """Rows of `size` consecutive entries of the (output, input) matrix."""
    flat = ops.reshape(
        ops.transpose(kernel, _output_first(kernel.shape)), (-1,)
    )
    missing = -flat.shape[0] % size
    flat = ops.pad(flat, (0, missing), constant_values=padding)
    return ops.reshape(flat, (-1, size))


def _unruns(rows, shape):
    axes = _output_first(shape)
    count = int(np.prod(shape))
    turned = ops.reshape(
        ops.reshape(rows, (-1,))[:count], [shape[a] for a in axes]
    )
    return ops.transpose(turned, np.argsort(axes).tolist())


def _output_first(shape):
    """Keras's order of axes (..., input, output), as (output, input, ...)."""
    last = len(shape) - 1
    return [last, last - 1, *range(last - 1)]


def _uniform_like(scores, seed):
    shapes = [None if s is None else tuple(s.shape) for s in scores]
    total = sum(int(np.prod(s)) for s in shapes if s is not None)
    return _like(_draws(total, seed), scores)


def _draws(count, seed):
    """A vector of draws in (0, 1]; the smallest uniform numbers come first."""
    return 1.0 - keras.random.uniform((count,), dtype="float32", seed=seed)


def _in_float32(tensors):
    return combine(lambda tensor: ops.cast(tensor, "float32"), tensors)


def _whole(masks):
    """Zeros and ones, also where a mean of masks has left rounding errors."""
    return combine(ops.round, _in_float32(masks))


def _number(tensors):
    return sum(t is not None for t in tensors)


def _flat(tensors):
    return ops.concatenate(
        [ops.reshape(t, (-1,)) for t in tensors if t is not None]
    )


def _like(flat, tensors):
    parts, start = [], 0
    for tensor in tensors:
        if tensor is None:
            parts.append(None)
            continue
        size = int(np.prod(tensor.shape))
        part = flat[start : start + size]
        parts.append(ops.reshape(part, tuple(tensor.shape)))
        start += size
    return parts


def _top(flat, count):
    """Ones at the `count` largest entries of a vector."""
    if count == 0:
        return ops.zeros_like(flat)
    _, positions = ops.top_k(flat, count, sorted=False)
    ones = ops.ones((count,), flat.dtype)
    return ops.scatter(positions[:, None], ones, (flat.shape[0],))
