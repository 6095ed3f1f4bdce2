"""Random draws that depend on nothing but a seed and the step."""

import random

import keras
from keras import ops

from keras_lwsam import _keras


class StepSeed(keras.random.SeedGenerator):
    """A seed for one draw of `keras.random`, from the number of the step.

    It has no state of its own: the same step draws the same numbers, on every
    replica, and after a run was stopped and went on.

    Args:
        seed: int scalar tensor, of the whole training.
        step: int scalar tensor, the number of the step.
        draw: int, which draw of the step this is.
        repetition: int, or int scalar tensor: which time it is repeated.
    """

    def __init__(self, seed, step, draw, repetition=0):
        # Not that of the parent, which would create a variable.
        self.draw = draw
        seed = seed + 7919 * draw + 104729 * repetition
        dtype = _keras.seed_dtype()
        self._seed = ops.stack([ops.cast(seed, dtype), ops.cast(step, dtype)])

    def next(self, ordered=True):
        return self._seed


def peek():
    """What `random.randint` would draw, without drawing it.

    So that `keras.utils.set_random_seed` decides the draws of a method, and
    making a method does not change what is drawn afterwards.
    """
    twin = random.Random()
    twin.setstate(random.getstate())
    return twin.randint(0, 2**30)
