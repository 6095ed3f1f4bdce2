"""Derivatives and notes, in whatever backend runs the tests."""

import contextlib

import keras
import numpy as np

BACKEND = keras.backend.backend()


def differentiated(network, compute, jit_compile=False):
    """A pass forward and backward, as plain Keras would make it.

    Args:
        network: A built model.
        compute: Function without arguments to a scalar and further results.
        jit_compile: Whether XLA computes, where that is a choice.

    Returns:
        The results of `compute`, and a list with a gradient of the scalar for
        each trainable variable, `None` if there is none. Variables that the
        network assigns have their new values.
    """
    return _DIFFERENTIATED[BACKEND](network, compute, jit_compile)


def gradients_of(network, compute):
    """Those gradients as arrays, zeros where there is none."""
    _, gradients = differentiated(network, lambda: (compute(), None))
    return [
        np.zeros(v.shape, "float32") if g is None else to_numpy(g)
        for g, v in zip(gradients, network.trainable_variables, strict=True)
    ]


def to_numpy(tensor):
    """An array, also of the slices of an embedding's gradient."""
    if BACKEND == "tensorflow":
        import tensorflow as tf

        tensor = tf.convert_to_tensor(tensor)
    return keras.ops.convert_to_numpy(tensor)


def traced(count, shapes=1):
    """How often steps are traced: on PyTorch never, on JAX for each shape."""
    return {"torch": 0, "jax": count * shapes}.get(BACKEND, count)


def note(seen, variable):
    """Appends the numbers of a variable to a list, when they are there."""
    if BACKEND != "jax":
        seen.append(keras.ops.convert_to_numpy(variable))
        return
    import jax

    # Under `jax.grad` there are none yet.
    jax.debug.callback(
        lambda numbers: seen.append(np.asarray(numbers)),
        keras.ops.convert_to_tensor(variable.value),
    )


def allowed_float64():
    """A context in which tensors may have 64 bits, as not always on JAX."""
    if BACKEND != "jax":
        return contextlib.nullcontext()
    import jax

    return jax.enable_x64(True)


def wait():
    """Lets everything be noted that was computed."""
    if BACKEND == "jax":
        import jax

        jax.effects_barrier()


def _by_tape(network, compute, jit_compile):
    import tensorflow as tf

    def run():
        with tf.GradientTape() as tape:
            results = compute()
        return results, tape.gradient(results[0], network.trainable_variables)

    return tf.function(run, jit_compile=True)() if jit_compile else run()


def _by_autograd(network, compute, jit_compile):
    import torch

    results = compute()
    leaves = [v.value for v in network.trainable_variables]
    gradients = torch.autograd.grad(results[0], leaves, allow_unused=True)
    return results, list(gradients)


def _by_transformation(network, compute, jit_compile):
    import jax

    trained = network.trainable_variables
    others = network.non_trainable_variables

    def run(values):
        pairs = [*zip(trained, values, strict=True)]
        pairs += [(v, v.value) for v in others]
        with keras.StatelessScope(pairs, collect_losses=True) as scope:
            results = compute()
            new = [scope.get_current_value(v) for v in others]
        return results[0], (results, new)

    (_, (results, new)), gradients = jax.value_and_grad(run, has_aux=True)(
        [v.value for v in trained]
    )
    for variable, value in zip(others, new, strict=True):
        variable.assign(value)
    return results, gradients


def synchronize(model):
    """Lets variables have their values inside `fit`, as callbacks see them."""
    if BACKEND == "jax":
        model.jax_state_sync()


_DIFFERENTIATED = {
    "tensorflow": _by_tape,
    "jax": _by_transformation,
    "torch": _by_autograd,
}
