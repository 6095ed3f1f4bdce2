"""What `fit` of the wrapper adds to that of Keras."""

import collections
import contextlib
import inspect

import keras
from keras import tree

# Compiled steps kept at a time. Each holds a traced graph; a selection that
# wanders further than this forgets the one that it left longest ago.
_KEPT_STEPS = 64


class CompiledSteps:
    """Compiled training steps, one for each variant of the step.

    Args:
        make: Function without arguments to a new one.
    """

    def __init__(self, make):
        self._make = make
        self._compiled = collections.OrderedDict()

    def __call__(self, variant):
        """The compiled step of this variant, made when it is first asked."""
        if variant not in self._compiled:
            self._compiled[variant] = self._make()
        self._compiled.move_to_end(variant)
        if len(self._compiled) > _KEPT_STEPS:
            self._compiled.popitem(last=False)
        return self._compiled[variant]


@contextlib.contextmanager
def with_callback(model, args, kwargs, callback):
    """The arguments of `keras.Model.fit`, with one more callback, in front."""
    signature = inspect.signature(keras.Model.fit)
    arguments = signature.bind(None, *args, **kwargs).arguments
    del arguments["self"]
    given = arguments.get("callbacks")
    if isinstance(given, keras.callbacks.CallbackList):
        callback.set_model(model)
        given.callbacks.insert(0, callback)
    else:
        arguments["callbacks"] = [callback, *tree.flatten(given or [])]
    try:
        yield arguments
    finally:
        if isinstance(given, keras.callbacks.CallbackList):
            given.callbacks.remove(callback)


class EpochBegin(keras.callbacks.Callback):
    """Calls a function when an epoch begins.

    Args:
        function: Function of the epoch's index, the number of epochs and the
            number of steps in one, which may be `None`.
    """

    def __init__(self, function):
        super().__init__()
        self._function = function

    def on_epoch_begin(self, epoch, logs=None):
        known = self.params or {}
        self._function(epoch, known.get("epochs"), known.get("steps"))
