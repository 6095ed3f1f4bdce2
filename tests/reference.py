"""A second implementation, of the other kind: it mutates and restores.

It shares nothing with the package but Keras. Variables are moved, the network
is called, and every variable is put back from a copy. Slow, and simple enough
to be seen to be right.
"""

import keras
import numpy as np
import tensorflow as tf


def states_of(network):
    """BatchNorm statistics and random seeds."""
    return network.non_trainable_variables


def evaluator(network, loss_function, jit_compile=False):
    """A function to the loss and gradients at the present weights.

    XLA draws other random numbers than TensorFlow, so what is compared with
    XLA must be compiled by it.
    """

    def run(x, y, sample_weight):
        with tf.GradientTape() as tape:
            predictions = network(x, training=True)
            loss = loss_function(y, predictions, sample_weight=sample_weight)
            loss += sum(network.losses)
        return loss, tape.gradient(loss, network.trainable_variables)

    if jit_compile:
        run = tf.function(run, jit_compile=True)

    def evaluate(x, y, sample_weight=None):
        loss, gradients = run(x, y, sample_weight)
        return float(loss), [
            None if g is None else tf.convert_to_tensor(g).numpy()
            for g in gradients
        ]

    return evaluate


def norm(gradients):
    """L2 norm over a list of arrays."""
    squares = [np.sum(np.square(g, dtype="float64")) for g in gradients]
    return float(np.sqrt(sum(squares)))


def step(
    network,
    optimizer,
    evaluate,
    x,
    y,
    rho,
    is_selected,
    alpha=1.0,
    norm_over_all=False,
    sample_weight=None,
):
    """One step of SAM (`alpha=1`) or GNP.

    Returns:
        `(clean loss, sharp loss, clean norm, gradients)`.
    """
    variables = network.trainable_variables
    before = [v.numpy().copy() for v in variables]
    state_before = [v.numpy().copy() for v in states_of(network)]
    loss, clean = evaluate(x, y, sample_weight)
    state_after = [v.numpy().copy() for v in states_of(network)]
    perturbed = [
        is_selected(v) and g is not None
        for v, g in zip(variables, clean, strict=True)
    ]
    chosen = [g for g, p in zip(clean, perturbed, strict=True) if p]
    everything = [g for g in clean if g is not None]
    length = norm(everything if norm_over_all else chosen)
    for v, g, p in zip(variables, clean, perturbed, strict=True):
        if p and length > 0.0:
            v.assign(v.numpy() + (rho / length * g).astype(v.numpy().dtype))
    # The same dropout masks and BatchNorm statistics as in the first pass.
    for v, value in zip(states_of(network), state_before, strict=True):
        v.assign(value)
    sharp_loss, sharp = evaluate(x, y, sample_weight)
    for v, value in zip(variables, before, strict=True):
        v.assign(value)
    for v, value in zip(states_of(network), state_after, strict=True):
        v.assign(value)
    combined = [
        (1.0 - alpha) * g + alpha * s if p else s
        for g, s, p in zip(clean, sharp, perturbed, strict=True)
    ]
    optimizer.apply(
        [None if g is None else tf.constant(g) for g in combined], variables
    )
    return loss, sharp_loss, norm(chosen), combined


def train(
    network, optimizer, loss_function, batches, jit_compile=False, **kwargs
):
    """Steps over batches; returns what each `step` returned."""
    keras.utils.set_random_seed(1)
    optimizer.build(network.trainable_variables)
    evaluate = evaluator(network, loss_function, jit_compile)
    return [
        step(network, optimizer, evaluate, x, y, **kwargs) for x, y in batches
    ]
