"""What a network does around the methods of `keras.Model`.

A KerasHub task turns strings into tokens in a `fit` of its own, which ends in
`super().fit(...)`; a KerasCV detector unpacks a batch so in its `train_step`.
They should do the same for the wrapper, whose methods come in at that `super`.
"""

import functools
import inspect
import types

import keras


def overrides(network, name) -> bool:
    """Whether `network` has a method `name` of its own."""
    return getattr(type(network), name) is not getattr(keras.Model, name)


def hands_over(network, name) -> bool:
    """Whether all methods `name` of its own name the next one.

    One that does not, such as a training step with a tape of its own, leaves
    nothing for anybody else to do. Of one that is no function nobody knows.
    """
    codes = []
    for base in type(network).__mro__:
        if base is keras.Model:
            break
        method = inspect.unwrap(vars(base).get(name))
        codes.append(getattr(method, "__code__", None))
    return all(code is None or name in code.co_names for code in codes)


def around(network, name, run):
    """`network.name`, with `run` in place of that of `keras.Model`.

    Args:
        network: A `keras.Model`.
        name: Name of a method of `keras.Model`.
        run: Function that takes the arguments which the network's method
            hands over to `super()`.

    Returns:
        A function; `run` itself if the network has no such method.
    """
    if not overrides(network, name):
        return run
    calls = []

    def run_and_note(_, *args, **kwargs):
        calls.append(name)
        return run(*args, **kwargs)

    def call(*args, **kwargs):
        # Held until the end: a `tf.function` refers to it weakly.
        stand_in = _with_base(network, name, run_and_note)
        result = getattr(stand_in, name)(*args, **kwargs)
        if not calls:
            raise RuntimeError(
                f"`{name}` of {type(network)} never calls "
                f"`super().{name}(...)`, where training sharpness-aware comes "
                f"in. Received: model={network.name!r}"
            )
        return result

    return call


class _EnoughError(Exception):
    """Ends a method of which nothing more is wanted."""


def handed_over(network, name, *args, **kwargs) -> dict:
    """The arguments that `network.name` hands over to `super()`, by name.

    The state of variables, which steps on JAX are given first, is nothing.
    """
    found = []
    parameters = inspect.signature(getattr(keras.Model, name)).parameters
    if "state" in parameters:
        args = (None, *args)

    def stop(*args, **kwargs):
        found.append(by_name(name, args, kwargs))
        raise _EnoughError

    try:
        around(network, name, stop)(*args, **kwargs)
    except Exception:
        # Of another class, if it has come through a `tf.function`.
        if not found:
            raise
    return found[0]


class _WithoutHooks:
    """First of the bases: a class below it is made without being announced."""

    def __init_subclass__(cls, **kwargs):
        """Does nothing, whatever the network's own would do."""


def _with_base(network, name, method):
    """`network`, of a class whose `super().name` is `method`.

    It is another object with the very attributes of the network, so that
    nobody else who has the network sees another class.
    """
    kind = type(network)
    last = type(keras.Model)("KerasModel", (keras.Model,), {name: method})
    derived = types.new_class(kind.__name__, (_WithoutHooks, kind, last))
    stand_in = object.__new__(derived)
    object.__setattr__(stand_in, "__dict__", vars(network))
    return stand_in


def by_name(name, args, kwargs) -> dict:
    """The arguments of a call of a method `name` of `keras.Model`.

    A network may have them in another order.
    """
    signature = inspect.signature(getattr(keras.Model, name))
    given = signature.bind_partial(None, *args).arguments
    del given["self"]
    return dict(**given, **kwargs)


def delegated(name):
    """A method `name` for a wrapper that has the network as `model`.

    It does what the network does around that of `keras.Model`, and there what
    the wrapper's next base does.
    """

    @functools.wraps(getattr(keras.Model, name))
    def method(self, *args, **kwargs):
        run = around(self.model, name, self._next(name))
        return run(**by_name(name, args, kwargs))

    return method
