"""Mathematics on lists of tensors, one entry a weight, `None` for "nothing".

A list has an entry for every weight of the network. `None` stands where there
is nothing to say: no gradient, no perturbation, a weight that is not selected.
It counts as zero in sums and norms, and it stays `None` in what is computed
from it, so that an untouched weight remains the *same* tensor everywhere.
"""

from keras import ops


def in_float32(tensor):
    """`tensor` in at least float32: 16-bit sums and steps round to nothing."""
    if ops.dtype(tensor) in ("float16", "bfloat16"):
        return ops.cast(tensor, "float32")
    return tensor


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
        None if t is None else _times(in_float32(t), factor) for t in tensors
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


def _times(tensor, factor):
    return tensor * ops.cast(factor, ops.dtype(tensor))
