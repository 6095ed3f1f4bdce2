"""What one pass through a network computes, and on which weights it depends."""

import contextlib

import torch
from keras import ops, tree
from torch.utils._python_dispatch import TorchDispatchMode

from keras_lwsam import _functional, _keras
from keras_lwsam._engines.operations import (
    Dependence,
    Operation,
    described,
    union,
)
from keras_lwsam._engines.scopes import Pass
from keras_lwsam._engines.torch import flops, randomness


def of_network(network, inputs, weights) -> list[Operation]:
    """The operations that a network's predictions and losses are made of.

    The network is called once, on ones. No variable changes, and nothing is
    drawn.

    Args:
        network: A built `keras.Model`.
        inputs: Structure of anything with a shape, all dimensions known, and a
            dtype.
        weights: List of Keras variables of the network.
    """
    x = tree.map_structure(lambda t: ops.ones(t.shape, t.dtype), inputs)
    known = {id(v) for v in weights}
    rest = [v for v in network.variables if id(v) not in known]
    at = [v.value.detach() for v in weights]
    # Only functional networks let what they have computed be taken over.
    is_shared = bool(_functional.functional_parts([network]))
    recorder = _Recorder(Dependence(is_repeated=not is_shared))
    position = {id(v): i for i, v in enumerate(weights)}
    for part in tree.flatten(x):
        recorder.note(part, Dependence(data=True))
    for index, value in enumerate(at):
        own = frozenset([index])
        recorder.note(value, Dependence(own, own))
    scope = Pass(
        weights,
        at,
        [(v, v.value.detach()) for v in rest],
        range(len(at)),
        torch.Tensor.detach,
        lambda value, index: value,
    )

    def take(network, standardize, tensors):
        return standardize(tensors)

    def call(operation, run, args, kwargs):
        variables = getattr(operation, "variables", ())
        own = {position[id(v)] for v in variables if id(v) in position}
        with recorder.inside(frozenset(own)):
            return run(*args, **kwargs)

    parts = _functional.functional_parts(_keras.walk_layers(network))
    calls = _functional.with_calls(parts, take, call)
    drawn = randomness.state()
    try:
        with torch.no_grad(), scope, calls, recorder:
            predictions = _keras.call(network, x, training=True)
            results = [*tree.flatten(predictions), *network.losses]
    finally:
        randomness.restore(drawn)
    return recorder.upstream(results)


class _Recorder(TorchDispatchMode):
    """Notes each operation, and what its results depend on.

    Args:
        any_case: What every result depends on.
    """

    def __init__(self, any_case):
        super().__init__()
        self._any_case = any_case
        self._dependences = {}
        self._found = []
        # Ids are unique while what they are the ids of is alive.
        self._kept = []
        self._own = frozenset()

    @contextlib.contextmanager
    def inside(self, own):
        """A context in which an operation of a functional network is called.

        It is called again, as a whole, if one of its weights is perturbed.

        Args:
            own: Positions of its weights.
        """
        around, self._own = self._own, own
        try:
            yield
        finally:
            self._own = around

    def note(self, tensor, dependence):
        """Notes what a tensor depends on."""
        self._kept.append(tensor)
        self._dependences[id(tensor)] = union([dependence, self._any_case])

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        results = function(*args, **kwargs)
        operands = [self._of(t) for t in flops.tensors((args, kwargs))]
        outcome = union([*operands, self._any_case, Dependence(self._own)])
        name = function.overloadpacket.__name__
        if name == "detach":
            outcome = outcome._replace(gradients=frozenset())
        found = described(
            name,
            flops.work(function, args, kwargs, results),
            operands,
            outcome,
            flops.is_product(function),
        )
        read = [id(t) for t in flops.tensors((args, kwargs))]
        made = flops.tensors(results)
        self._found.append((found, read, [id(t) for t in made]))
        for tensor in made:
            own = outcome
            if not tensor.is_floating_point():
                own = own._replace(gradients=frozenset())
            self.note(tensor, own)
        self._kept.extend(flops.tensors((args, kwargs)))
        return results

    def upstream(self, results) -> list[Operation]:
        """The operations that some tensors are made of."""
        wanted = {id(t) for t in results if isinstance(t, torch.Tensor)}
        operations = []
        for found, read, made in reversed(self._found):
            if not wanted.isdisjoint(made):
                operations.append(found)
                wanted.update(read)
        return operations[::-1]

    def _of(self, tensor):
        return self._dependences.get(id(tensor), self._any_case)
