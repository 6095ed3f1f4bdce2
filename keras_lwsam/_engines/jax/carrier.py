"""How the values of variables get from step to step: Keras hands them on."""

import contextlib

import keras

from keras_lwsam import _keras
from keras_lwsam._engines.carriers import Variables


class Arguments(Variables):
    """As arguments and results of the functions that take steps.

    While `fit` runs, the variables themselves hold no values.
    """

    def __init__(self, model):
        super().__init__(model)
        self._state = None

    def function(self, function):
        def train_function(state, iterator):
            self._state = state
            try:
                return function(iterator), self._state
            except BaseException:
                # A step that failed has changed nothing.
                _keras.leave_state(self._model, self._state)
                raise
            finally:
                self._state = None

        return train_function

    def step(self, compiled):
        def take(iterator):
            logs, self._state = compiled(self._state, iterator)
            return logs

        return take

    @contextlib.contextmanager
    def variables(self):
        with carried(self._model, self._state) as new:
            yield
            self._state = new()


@contextlib.contextmanager
def carried(model, state):
    """Lets the variables of a model have the values of a state.

    Args:
        model: A compiled `keras.Model`.
        state: Four lists of values, as `keras.Model.train_step` is given them.

    Yields:
        A function to the state that has come of it.
    """
    lists = (
        model.trainable_variables,
        model.non_trainable_variables,
        model.optimizer.variables,
        model.metrics_variables,
    )
    pairs = [
        pair
        for variables, values in zip(lists, state, strict=True)
        for pair in zip(variables, values, strict=True)
    ]

    def new():
        return tuple(
            [scope.get_current_value(v) for v in variables]
            for variables in lists
        )

    with keras.StatelessScope(pairs) as scope:
        yield new
