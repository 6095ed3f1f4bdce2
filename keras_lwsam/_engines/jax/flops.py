"""Floating-point operations of an operation of JAX, from its shapes."""

import math

from jax import numpy as jnp

PRODUCTS = ("dot_general", "conv_general_dilated")
# Those whose result is smaller than what they read and compute with.
REDUCTIONS = ("reduce_", "arg", "cumsum", "select_and_gather")
# Another name, or another shape, for the same numbers.
FREE = ("reshape", "squeeze", "expand_dims", "broadcast_in_dim", "copy")
FREE += ("stop_gradient", "sharding_constraint", "optimization_barrier")


def is_product(equation) -> bool:
    """Whether the gradient of each operand is a product as large as itself."""
    return equation.primitive.name in PRODUCTS


def work(equation) -> float:
    """Floating-point operations: two for each multiplication and addition.

    What is no product counts one for each number that it returns; a reduction,
    one for each number that it reads.

    Args:
        equation: A `JaxprEqn`.
    """
    kind = equation.primitive.name
    results = [v.aval for v in equation.outvars if is_float(v.aval)]
    if kind in FREE or not results:
        return 0.0
    operands = [v.aval for v in equation.invars]
    if kind == "dot_general":
        (contracted, _), _ = equation.params["dimension_numbers"]
        inner = math.prod(operands[0].shape[axis] for axis in contracted)
        return 2.0 * results[0].size * inner
    if kind == "conv_general_dilated":
        numbers = equation.params["dimension_numbers"]
        kernel = operands[1]
        fan_in = kernel.size / kernel.shape[numbers.rhs_spec[0]]
        # A transposed one spreads its inputs: zeros lie between them.
        spread = math.prod(equation.params["lhs_dilation"])
        return 2.0 * results[0].size * fan_in / spread
    if kind.startswith(REDUCTIONS):
        return float(operands[0].size)
    return float(max(result.size for result in results))


def is_float(aval) -> bool:
    """Whether an abstract value is one of floating-point numbers."""
    dtype = getattr(aval, "dtype", None)
    return dtype is not None and jnp.issubdtype(dtype, jnp.inexact)
