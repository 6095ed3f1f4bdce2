"""What an earlier pass of a step has computed, taken over by the next."""

import collections
import contextlib
import operator
from typing import Any, NamedTuple

import torch
from keras import tree

from keras_lwsam import _functional, _keras
from keras_lwsam._engines.torch import randomness
from keras_lwsam._lending import with_attributes


class Call(NamedTuple):
    """An operation that has been called, and all that it did.

    Attributes:
        operands: List of the tensors and values that it was given.
        read: `(variable, value)` pairs of what it has read.
        versions: How often each of its outputs was changed in its place.
        outputs: Structure of tensors.
        updates: `(variable, value)` pairs that it has assigned.
        losses: Pairs of a layer and a loss that it has added.
        drawn: Where it left the generators of PyTorch; `None` if it has drawn
            nothing.
    """

    operands: list
    read: list
    outputs: Any
    versions: list
    updates: list
    losses: list
    drawn: Any

    def holds(self, scope):
        """Whether it would do the same again, in the scope of another pass."""
        # All are looked at: whoever listens to the scope learns of them.
        same = [scope.get_current_value(v) is value for v, value in self.read]
        return all(same) and self.versions == _versions(self.outputs)


class Outputs:
    """Outputs of the operations of functional networks, in one step.

    An operation that is given the very tensors that an earlier pass gave it,
    and whose variables have the same values, is not called again: its outputs
    are taken over, and with them the graph that gradients flow back through.
    Networks that are not functional call their layers themselves, in a way
    that nobody else sees: there nothing is taken over.

    Args:
        network: The `keras.Model`.
    """

    def __init__(self, network):
        self._parts = _functional.functional_parts(_keras.walk_layers(network))
        self._network = network
        self._known = {}
        self._times = collections.Counter()
        self._recorders = []
        self._given = self._inputs = None

    @property
    def are_shared(self):
        """Whether anything can be taken over."""
        return bool(self._parts)

    def inputs(self, given):
        """What the network is called on: the same tensors in all passes.

        A pass on others than the last one's has nothing in common with it.
        """
        parts = tree.flatten(given)
        if self._given is None or not all(
            map(operator.is_, parts, self._given)
        ):
            self._known.clear()
            self._given = parts
            self._inputs = _functional.converted(self._network, given)
        return self._inputs

    @contextlib.contextmanager
    def shared(self, scope):
        """A context in which the network is called in a pass.

        Args:
            scope: The `Pass`.
        """
        if not self._parts:
            yield
            return
        self._forget(scope)
        self._times = collections.Counter()

        def take(network, standardize, tensors):
            return self._call(
                scope, network, "inputs", standardize, (tensors,), {}
            )

        def call(operation, run, args, kwargs):
            return self._call(scope, operation, "call", run, args, kwargs)

        calls = _functional.with_calls(self._parts, take, call)
        with calls, self._noting_losses():
            yield

    def _noting_losses(self):
        """A context in which layers tell the recorders what they add."""

        def noted(layer):
            def add_loss(loss):
                for recorder in self._recorders:
                    recorder.losses.append((layer, loss))
                return type(layer).add_loss(layer, loss)

            return add_loss

        return with_attributes(
            [
                (layer, {"add_loss": noted(layer)})
                for layer in _keras.walk_layers(self._network)
            ]
        )

    def _call(self, scope, operation, what, run, args, kwargs):
        operands = tree.flatten((args, kwargs))
        variables = getattr(operation, "variables", ())
        if what == "inputs":
            variables = ()
        read = [scope.get_current_value(v) for v in variables]
        key = (id(operation), what, *sorted(kwargs), *map(_mark, operands))
        key += tuple(map(id, read))
        # Two calls of one pass stay two, and so do their gradients, which are
        # rounded one by one.
        self._times[key] += 1
        key += (self._times[key],)
        call = self._known.get(key)
        if call is not None and call.holds(scope):
            for variable, value in call.updates:
                scope.note(variable, value)
            for layer, loss in call.losses:
                layer.add_loss(loss)
            if call.drawn is not None:
                randomness.restore(call.drawn)
            return call.outputs
        recorder = _Recorder()
        self._recorders.append(recorder)
        before = randomness.state()
        scope.listeners.append(recorder)
        try:
            outputs = run(*args, **kwargs)
        finally:
            scope.listeners.remove(recorder)
            self._recorders.remove(recorder)
        after = randomness.state()
        self._known[key] = Call(
            operands,
            [*zip(variables, read, strict=True), *recorder.values.values()],
            outputs,
            _versions(outputs),
            updates=recorder.updates,
            losses=recorder.losses,
            drawn=None if randomness.are_equal(before, after) else after,
        )
        return outputs

    def _forget(self, scope):
        """Drops what depends on values that this pass does not have."""
        present = set(map(id, scope.state_mapping.values()))
        gone = set()
        for key, call in list(self._known.items()):
            operands = set(map(id, call.operands))
            read = {id(value) for _, value in call.read}
            if not read <= present or operands & gone:
                del self._known[key]
                gone.update(map(id, tree.flatten(call.outputs)))


class _Recorder:
    """Notes what is read and assigned, and which losses are added."""

    def __init__(self):
        self.values = {}
        self.updates = []
        self.losses = []

    def read(self, variable, value):
        """Told of a variable that is read.

        One that has no value here is not of the network: it stays as it is.
        """
        is_assigned = any(variable is v for v, _ in self.updates)
        if value is not None and not is_assigned:
            self.values.setdefault(id(variable), (variable, value))

    def updated(self, variable, value):
        """Told of a variable that is assigned."""
        self.updates.append((variable, value))


def _versions(outputs):
    parts = tree.flatten(outputs)
    return [part._version for part in parts if torch.is_tensor(part)]


def _mark(operand):
    """What tells an operand from another."""
    if operand is None or isinstance(operand, bool | int | float | str):
        return (type(operand), operand)
    return id(operand)
