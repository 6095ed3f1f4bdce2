"""Recurrent layers: called once in a step, for all passes that agree on it.

TensorFlow merges what two passes through a network have in common, but no
loops, and a recurrent layer is one. So where a layer stands upstream of all
that differs, a later pass takes over what an earlier one has made.
"""

import collections
import contextlib
import functools
import threading
from typing import Any, NamedTuple

import keras
import tensorflow as tf
from keras import tree

from keras_lwsam import _keras
from keras_lwsam._engines.tensorflow.gradients import dense
from keras_lwsam._lending import with_attributes

try:
    # What `tf.custom_gradient` tells a tape by. In a graph it also registers a
    # gradient for good, and with it the graph of every step compiled.
    from tensorflow.python.eager.record import record_operation
except ImportError:
    # Not public: without it, loops are computed in each pass.
    record_operation = None

LAYERS = (keras.layers.RNN, keras.layers.Bidirectional)
# They are the same in all passes of a step, wherever a layer has them from.
GIVEN = ("Placeholder", "Const")

# The pass that each thread is in: replicas take turns, and share the layers.
_present = threading.local()


class Call(NamedTuple):
    """A call of a layer, and what it takes to stand for another one.

    Attributes:
        scope: The `Pass` in which it was made.
        training: Whether that was called as in training.
        graph: The graph in which it was made.
        arguments: What the layer was given.
        reads: `(variable, value)` pairs: what variables stood for.
        updates: `(variable, value)` pairs: what it would have assigned.
        outputs: What it returned.
        operations: Names of the operations that it consists of.
    """

    scope: Any
    training: bool
    graph: Any
    arguments: Any
    reads: list
    updates: list
    outputs: Any
    operations: frozenset


class Loops:
    """The calls of a network's recurrent layers since a snapshot."""

    def __init__(self, network):
        self._layers = [
            layer
            for layer in _keras.walk_layers(network)
            if isinstance(layer, LAYERS) and record_operation
        ]
        self._calls = collections.defaultdict(list)
        self._equality = _Equality()

    @property
    def operations(self):
        """Names of the operations that a second pass may take over."""
        calls = [call for made in self._calls.values() for call in made]
        return frozenset().union(*(call.operations for call in calls))

    @contextlib.contextmanager
    def shared(self, scope, training):
        """Lets the layers take over in a `Pass` what earlier ones made.

        In a graph only: nothing else tells that two tensors are the same.
        """
        if not self._layers or tf.executing_eagerly():
            yield
            return
        before = getattr(_present, "pass_", None)
        _present.pass_ = self, scope, training
        try:
            with with_attributes(
                (layer, {"call": _shared(layer, layer.call)})
                for layer in self._layers
            ):
                yield
        finally:
            _present.pass_ = before

    def call(self, layer, call, arguments, scope, training):
        """What a layer returns: of an earlier pass, or anew."""
        calls = self._calls[id(layer)]
        graph = tf.compat.v1.get_default_graph()
        for earlier in calls:
            if (
                earlier.scope is not scope
                and earlier.training == training
                and earlier.graph is graph
                and all(
                    scope.state_mapping.get(id(variable)) is value
                    for variable, value in earlier.reads
                )
                and self._equality.of(earlier.arguments, arguments)
            ):
                return _taken_over(earlier, arguments, scope)
        made = _made(call, arguments, scope, training, graph)
        if _is_self_contained(made):
            calls.append(made)
        return made.outputs


def _shared(layer, call):
    @functools.wraps(call)
    def call_or_take_over(*args, **kwargs):
        present = getattr(_present, "pass_", None)
        if present is None:
            return call(*args, **kwargs)
        loops, scope, training = present
        return loops.call(layer, call, (args, kwargs), scope, training)

    return call_or_take_over


class _Listener:
    """Notes what variables are read as and updated to, in a part of a pass."""

    def __init__(self):
        self._reads = {}
        self.updates = []

    @property
    def reads(self):
        return [pair for pair in self._reads.values() if pair is not None]

    def read(self, variable, value):
        self._reads.setdefault(id(variable), (variable, value))

    def updated(self, variable, value):
        # What is read from now on is a result of this part.
        self._reads.setdefault(id(variable), None)
        self.updates.append((variable, value))


def _made(call, arguments, scope, training, graph):
    """A `Call`, made now."""
    count = len(graph.get_operations())
    losses = len(scope.losses)
    args, kwargs = arguments
    listener = _Listener()
    scope.listeners.append(listener)
    try:
        outputs = call(*args, **kwargs)
    finally:
        scope.listeners.remove(listener)
    operations = graph.get_operations()[count:]
    if len(scope.losses) > losses:
        # They would have to be told again.
        operations = []
    return Call(
        scope,
        training,
        graph,
        arguments,
        listener.reads,
        listener.updates,
        outputs,
        frozenset(operation.name for operation in operations),
    )


def _is_self_contained(call):
    """Whether a call depends on nothing but what is known of it.

    A layer may be told tensors of the pass in other ways than by arguments; and
    a weight that it assigns becomes a leaf of the pass.
    """
    of_weights = {id(variable) for variable in call.scope.weights}
    if any(id(variable) in of_weights for variable, _ in call.updates):
        return False
    results = [*tree.flatten(call.outputs), *(v for _, v in call.updates)]
    if not all(_is_in(call.graph, result) for result in results):
        return False
    values = [value for _, value in call.reads]
    known = {
        tensor.name
        for tensor in tree.flatten([call.arguments, values])
        if _is_in(call.graph, tensor)
    }

    def is_known(tensor):
        return tensor.op.name in call.operations or tensor.name in known

    operands = [
        tensor
        for name in call.operations
        for tensor in call.graph.get_operation_by_name(name).inputs
    ]
    return (
        bool(operands)
        and all(is_known(t) or t.op.type in GIVEN for t in operands)
        # They may come of an earlier pass, of an inner layer.
        and all(map(is_known, results))
    )


def _taken_over(call, arguments, scope):
    """The outputs of an earlier call, in a pass with the same arguments.

    It is one operation on the tape of this pass, from its arguments and the
    values of the variables.
    """
    for variable, _ in call.reads:
        scope.get_current_value(variable)
    for variable, value in call.updates:
        scope.note(variable, value)
    values = [value for _, value in call.reads]
    sources = {}
    for earlier, present in zip(
        tree.flatten([call.arguments, values]),
        tree.flatten([arguments, values]),
        strict=True,
    ):
        if _is_differentiable(earlier):
            sources.setdefault(id(earlier), (earlier, present))
    earlier = [pair[0] for pair in sources.values()]
    present = [pair[1] for pair in sources.values()]
    outputs = [t for t in tree.flatten(call.outputs) if _is_differentiable(t)]

    def backward(*slopes):
        # Off the graph: a second tape on a loop makes a function of it.
        slopes = [dense(slope) for slope in slopes]
        return tf.gradients(outputs, earlier, slopes, stop_gradients=earlier)

    record_operation("TakenOver", outputs, present, backward)
    return call.outputs


class _Equality:
    """Whether tensors of a graph are the same computation, made twice."""

    def __init__(self):
        self._known = set()

    def of(self, ones, others):
        """Whether two structures are alike in this way."""
        try:
            tree.assert_same_structure(ones, others)
        except (TypeError, ValueError):
            return False
        return all(
            self._of_leaves(one, other)
            for one, other in zip(
                tree.flatten(ones), tree.flatten(others), strict=True
            )
        )

    def _of_leaves(self, one, other):
        if isinstance(one, tf.Tensor) and isinstance(other, tf.Tensor):
            return one is other or self._of_tensors(one, other)
        if isinstance(one, bool | int | float | str):
            return type(one) is type(other) and one == other
        return one is other

    def _of_tensors(self, one, other):
        if one.graph is not other.graph:
            return False
        pairs, waiting = set(), [(one, other)]
        while waiting:
            one, other = waiting.pop()
            if one.value_index != other.value_index:
                return False
            pair = one.op, other.op
            if one.op is other.op or pair in pairs or pair in self._known:
                continue
            if not _are_alike(*pair):
                return False
            pairs.add(pair)
            waiting += zip(one.op.inputs, other.op.inputs, strict=True)
        self._known |= pairs
        return True


def _are_alike(one, other):
    """Whether two operations do the same with what they are given."""
    if (
        one.type != other.type
        or one.op_def.is_stateful
        or len(one.inputs) != len(other.inputs)
        # What has no operands may be anything, such as another input.
        or not (one.inputs or one.type == "Const")
        or one.control_inputs != other.control_inputs
    ):
        return False
    definitions = [one.node_def, other.node_def]
    for definition in definitions:
        for field in ("name", "input", "experimental_debug_info"):
            definition.ClearField(field)
    return definitions[0] == definitions[1]


def _is_in(graph, tensor):
    return isinstance(tensor, tf.Tensor) and tensor.graph is graph


def _is_differentiable(tensor):
    return isinstance(tensor, tf.Tensor) and (
        tensor.dtype.is_floating or tensor.dtype.is_complex
    )
