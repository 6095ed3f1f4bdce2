"""How the values of variables get from one step to the next."""

import contextlib


class Variables:
    """In the variables themselves.

    Args:
        model: The `keras.Model` in training.

    Attributes:
        takes_several: Whether what Keras compiles takes as many steps as
            `steps_per_execution` says, at once.
    """

    takes_several = False

    def __init__(self, model):
        self._model = model

    def count(self, iterator):
        """How many steps a call of the train function takes."""
        return self._model.steps_per_execution

    def function(self, function):
        """What Keras calls, from a function of an iterator to logs."""
        return function

    def step(self, compiled):
        """A function of an iterator to logs, from what Keras compiled."""
        return compiled

    def variables(self):
        """A context in which variables have their present values."""
        return contextlib.nullcontext()
