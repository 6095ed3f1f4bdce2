"""Gradients with respect to what is only made inside a function."""

import jax
from jax import numpy as jnp


class Taps:
    """Zeros that a function adds to values, to be differentiated by.

    The function is traced once to learn how many there are, and of which
    shapes; then again, with zeros of those.

    Attributes:
        shapes: Shape and dtype of each value that was met.
    """

    def __init__(self):
        self.shapes = []
        self._zeros = []

    def begin(self, zeros):
        """Starts a call of the function, with these zeros or none."""
        self.shapes = []
        self._zeros = zeros

    def on(self, value):
        """The value, with a zero added if there is one for it."""
        place = len(self.shapes)
        self.shapes.append((value.shape, value.dtype))
        return value + self._zeros[place] if self._zeros else value

    def zeros(self):
        """A zero for each value that was met."""
        return [jnp.zeros(*shape) for shape in self.shapes]


def noted(value, note):
    """The value; `note` is called with a gradient that flows back to it.

    Where nothing depends on it none does. `jax.grad` alone gives zeros then.
    """

    @jax.custom_vjp
    def same(value):
        return value

    def backward(_, gradient):
        note(gradient)
        return (gradient,)

    same.defvjp(lambda value: (value, None), backward)
    return same(value)
