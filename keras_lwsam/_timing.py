"""A short measurement: how long steps take that perturb some layers."""

import functools
import time

import keras
import numpy as np
from keras import ops, tree

from keras_lwsam import _engines
from keras_lwsam._tensors import add
from keras_lwsam.perturbations import along_gradient

# Overheads, by the operations, near which steps are timed; and those of all
# layers.
_NEAR = (0.1, 0.25, 0.5)
_WARM_UP = 2
# Each round takes each step once. There are at least so many rounds, and others
# until all ratios are known to this standard error, or time is up.
_LEAST_ROUNDS, _STANDARD_ERROR, _SECONDS = 9, 0.01, 60.0


def overheads(network, inputs, layers, costs, model) -> dict:
    """Measured overheads of steps of two gradients, relative to a plain step.

    The steps are taken in turn, and the median over the rounds of the ratio to
    the plain step counts: what else the machine does comes and goes, and slows
    the neighbours in a round alike. No variable changes.

    Args:
        network: The network.
        inputs: A batch of inputs.
        layers: The network's layers, as `all_layers` gives them.
        costs: Its `Costs`, by which layers are chosen.
        model: The model that trains it, which may be the network. If it is
            compiled, steps are compiled as it says, and the update of its
            optimizer is timed too.

    Returns:
        Dict from a tuple of paths of perturbed layers to the overhead.
    """
    chosen = _choices(costs)
    weights = [weight for layer in layers for weight in layer.weights]
    owners = [layer.layer for layer in layers for _ in layer.weights]
    trained = sorted(costs.work.trained)
    optimizer = _optimizer(model, network)
    jit_compile = model.compiled and bool(model.jit_compile)
    steps = [
        _engines.current().compiled(
            _step(
                network,
                optimizer,
                weights,
                owners,
                [i for path in paths for i in costs.weights[path]],
                trained,
            ),
            inputs,
            jit_compile,
        )
        for paths in [(), *chosen]
    ]
    ratios = _ratios([functools.partial(step, inputs) for step in steps])
    return dict(zip(chosen, (ratios - 1.0).tolist(), strict=True))


def _ratios(steps):
    """How long functions take, relative to the first of them.

    Args:
        steps: List of functions of no arguments.

    Returns:
        Array with an entry for each but the first: the median over the rounds.
    """
    for step in steps * _WARM_UP:
        _seconds(step)
    # A step may be slower for the one that was taken before it.
    generator = np.random.default_rng(0)
    rounds = []
    end = time.perf_counter() + _SECONDS
    while not _suffice(rounds, end):
        took = np.empty(len(steps))
        for i in generator.permutation(len(steps)):
            took[i] = _seconds(steps[i])
        rounds.append(took[1:] / took[0])
    return np.median(rounds, axis=0)


def _suffice(rounds, end):
    """Whether the medians over some rounds are known, or time is up."""
    if len(rounds) < _LEAST_ROUNDS:
        return False
    # That of a median, its quartiles being those of a normal distribution.
    low, high = np.quantile(rounds, (0.25, 0.75), axis=0)
    error = np.sqrt(np.pi / 2 / len(rounds)) * np.max(high - low) / 1.349
    return error <= _STANDARD_ERROR or time.perf_counter() > end


def _seconds(step):
    """How long a function of no arguments computes."""
    start = time.perf_counter()
    # Waits for what is computed last.
    ops.convert_to_numpy(tree.flatten(step())[0])
    return time.perf_counter() - start


def _choices(costs):
    """Layers from the output side on: for each of some overheads, and all."""
    paths = [layer.path for layer in costs.layers]
    cuts = [tuple(paths[i:]) for i in range(len(paths))]
    counted = {cut: costs.predict(cut) - 1.0 for cut in cuts}
    near = [min(cuts, key=lambda c: abs(counted[c] - x)) for x in _NEAR]
    return list(dict.fromkeys([*near, cuts[0]]))


def _optimizer(model, network):
    """The optimizer of a model, or `None`."""
    if not model.compiled or model.optimizer is None:
        return None
    if not model.optimizer.built:
        # As training would.
        model.optimizer.build(network.trainable_variables)
    return model.optimizer


def _step(network, optimizer, weights, owners, perturbed, trained):
    """A step: what it would leave of the weights, nothing assigned.

    Args:
        network: As of `overheads`.
        optimizer: A built optimizer, or `None`.
        weights: List of all weights.
        owners: List of their layers.
        perturbed: Positions of the perturbed ones.
        trained: Positions of those that are trained.
    """

    def step(x):
        engine = _engines.current()(
            network=network,
            compute_loss=None,
            per_sample=None,
            optimizer=optimizer or _NoOptimizer,
            weights=weights,
            layer_of=owners,
            dense=perturbed,
            synchronize=False,
        )
        batch = (x, None, None)
        at = engine.values
        counted = None
        if perturbed:
            counted = engine.gradients(batch, at, perturbed, loss=_size)
            at = add(at, along_gradient(counted.gradients, 1e-3))
        last = engine.gradients(batch, at, trained, loss=_size, dense=True)
        assigned = [value for _, value in (counted or last).assignments]
        updated = last.gradients
        if optimizer:
            updated = engine.after_update(last.gradients)
        return [t for t in [*updated, *assigned] if t is not None]

    return step


def _size(x, y, predictions, sample_weight):
    """A loss of predictions alone."""
    outputs = [
        ops.mean(ops.square(ops.cast(output, "float32")))
        for output in tree.flatten(predictions)
        if keras.backend.is_float_dtype(ops.dtype(output))
    ]
    return sum(outputs)


class _NoOptimizer:
    """In place of an optimizer: the loss is not scaled."""

    @staticmethod
    def scale_loss(loss):
        return loss
