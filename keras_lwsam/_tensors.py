"""Mathematics on lists of tensors, one entry a weight, `None` for "nothing".

A list has an entry for every weight of the network. `None` stands where there
is nothing to say: no gradient, no perturbation, a weight that is not selected.
It counts as zero in sums and norms, and it stays `None` in what is computed
from it, so that an untouched weight remains the *same* tensor everywhere.
"""

import keras
import numpy as np
from keras import ops, tree


def in_float32(tensor):
    """`tensor` in at least float32: 16-bit sums and steps round to nothing."""
    if ops.dtype(tensor) in ("float16", "bfloat16"):
        return ops.cast(tensor, "float32")
    return tensor


def to_float64(tensor):
    """A tensor as an array of float64, which not every backend has."""
    return np.asarray(ops.convert_to_numpy(in_float32(tensor)), "float64")


def squared_norm(tensor):
    """Sum of the squares of one tensor, accumulated in at least float32."""
    return ops.sum(ops.square(in_float32(tensor)))


def global_norm(tensors):
    """L2 norm over all tensors of the list; 0.0 where the list is empty."""
    squares = [squared_norm(t) for t in tensors if t is not None]
    if not squares:
        return ops.zeros((), dtype="float32")
    dtype = "float64" if ops.dtype(squares[0]) == "float64" else "float32"
    return ops.sqrt(ops.sum(ops.stack([ops.cast(s, dtype) for s in squares])))


def scale(tensors, factor):
    """`factor` times each tensor, in at least float32."""
    return [
        None if t is None else times(in_float32(t), factor) for t in tensors
    ]


def add(values, displacements):
    """`values + displacements`; a value without displacement is unchanged."""
    return [
        value
        if displacement is None
        else ops.cast(value, ops.dtype(displacement)) + displacement
        for value, displacement in zip(values, displacements, strict=True)
    ]


def restrict(tensors, indices):
    """The entries at `indices`; everything else becomes `None`."""
    kept = frozenset(indices)
    return [t if i in kept else None for i, t in enumerate(tensors)]


def subtract(ones, others):
    """`one - other`; an entry is `None` where either is."""
    return combine(lambda one, other: one - other, ones, others)


def linear(factor, ones, other_factor, others):
    """`factor * one + other_factor * other`; `None` where either is."""
    return combine(
        lambda one, other: times(one, factor) + times(other, other_factor),
        ones,
        others,
    )


def combine(function, *lists):
    """`function` of the entries of several lists, in at least float32.

    An entry is `None` where any of them is.
    """
    return [
        None if any(t is None for t in ts) else function(*map(in_float32, ts))
        for ts in zip(*lists, strict=True)
    ]


def dot(ones, others):
    """Inner product of two lists, over the entries that both have."""
    products = [
        ops.sum(product)
        for product in combine(ops.multiply, ones, others)
        if product is not None
    ]
    if not products:
        return ops.zeros((), dtype="float32")
    return ops.sum(ops.stack(products))


def overlay(below, above):
    """The entries of `above`; where it has none, those of `below`."""
    return [b if a is None else a for b, a in zip(below, above, strict=True)]


def choose(predicate, ones, others):
    """Every entry from `ones` if the scalar predicate holds, else `others`."""
    return combine(
        lambda one, other: ops.where(
            predicate, one, ops.cast(other, one.dtype)
        ),
        ones,
        others,
    )


def if_else(predicate, then, otherwise):
    """One of two lists, of which only the one that is wanted is computed.

    Args:
        predicate: Boolean scalar tensor.
        then: Function without arguments to a list of tensors or `None`.
        otherwise: The same, with `None` in the same places.
    """
    places = []

    def present(function):
        def call():
            tensors = function()
            places[:] = [t is not None for t in tensors]
            return [in_float32(t) for t in tensors if t is not None]

        return call

    chosen = iter(ops.cond(predicate, present(then), present(otherwise)))
    return [next(chosen) if place else None for place in places]


def ratio(numerator, denominator):
    """Quotient of two scalars; 0 where the denominator is 0.

    NaN where it is infinite: it has overflowed, and what follows shall tell.
    """
    is_zero = ops.equal(denominator, 0.0)
    safe = ops.where(is_zero, ops.ones_like(denominator), denominator)
    safe = ops.where(ops.isinf(safe), float("nan"), safe)
    return ops.where(is_zero, ops.zeros_like(denominator), numerator / safe)


def mean_of(structures, shares):
    """Weighted mean of structures of tensors, entry by entry.

    What is not a number, or an integer, is that of the first structure.

    Args:
        structures: List of nested structures that are alike.
        shares: List of scalars whose sum is 1.
    """

    def mean(*values):
        if values[0] is None or not _is_float(values[0]):
            return values[0]
        return sum(
            in_float32(v) * ops.cast(share, ops.dtype(in_float32(v)))
            for v, share in zip(values, shares, strict=True)
        )

    return tree.map_structure(mean, *structures, none_is_leaf=True)


def zeros_like(weights):
    """NumPy zeros of the weights' shapes, in at least float32."""
    return [
        np.zeros(
            w.shape,
            "float64" if w.dtype == "float64" else "float32",
        )
        for w in weights
    ]


def times(tensor, factor):
    """A tensor times a scalar, which is cast to the tensor's type."""
    # Of an array of float64 JAX makes a tensor of float32.
    tensor = ops.convert_to_tensor(tensor)
    return tensor * ops.cast(factor, ops.dtype(tensor))


def _is_float(value):
    return keras.backend.is_float_dtype(ops.dtype(value))
