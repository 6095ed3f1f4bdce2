"""Random numbers that do not depend on a random state."""

import numpy as np


class Draws:
    """Pseudo-random functions of the shape and of the call within the step.

    Every step draws the same numbers, exactly representable in float32.
    """

    def __init__(self):
        self.calls = 0

    def start_step(self):
        """The next call is the first of a step."""
        self.calls = 0

    def uniform(self, shape):
        """Numbers in [0, 1)."""
        return self._generator(shape).random(shape, dtype="float32")

    def normal(self, shape):
        """Numbers of mean 0 and variance 1."""
        return self._generator(shape).standard_normal(shape, dtype="float32")

    def _generator(self, shape):
        self.calls += 1
        return np.random.default_rng([self.calls, *shape])
