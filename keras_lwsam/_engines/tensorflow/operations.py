"""What one pass through a network computes, and on which weights it depends."""

import tensorflow as tf
from keras import tree

from keras_lwsam import _keras
from keras_lwsam._engines.operations import (
    Dependence,
    Operation,
    as_one,
    described,
    union,
)
from keras_lwsam._engines.tensorflow import flops, functions
from keras_lwsam._engines.tensorflow.loops import Loops
from keras_lwsam._engines.tensorflow.passes import watched_by

LOOPS = ("While", "StatelessWhile")
BRANCHES = ("If", "StatelessIf", "Case", "StatelessCase")
CALLS = ("PartitionedCall", "StatefulPartitionedCall")
# They tell the shape of a tensor, and nothing of what is in it.
OF_SHAPES = ("Shape", "ShapeN", "Size", "Rank", "ZerosLike", "OnesLike")
STOPS = ("StopGradient", "PreventGradient")


def of_network(network, inputs, weights) -> list[Operation]:
    """The operations that a network's predictions and losses are made of.

    Nothing is computed: the network is traced.

    Args:
        network: A built `keras.Model`.
        inputs: Structure of anything with a shape, all dimensions known, and a
            dtype.
        weights: List of Keras variables of the network.
    """
    graph = tf.__internal__.FuncGraph("forward_pass")
    tape = tf.GradientTape(watch_accessed_variables=False)
    with graph.as_default(), tape:
        x = tree.map_structure(_placeholder, inputs)
        at = [_placeholder(variable) for variable in weights]
        known = {id(v) for v in weights}
        rest = [
            (v, _placeholder(v))
            for v in network.variables
            if id(v) not in known
        ]
        scope = watched_by(tape, weights, at, rest, range(len(at)))
        loops = Loops(network)
        with scope, loops.shared(scope, training=True):
            predictions = _keras.call(network, x, training=True)
            results = [*tree.flatten(predictions), *network.losses]
    seeds = {t.name: Dependence(data=True) for t in tree.flatten(x)}
    for index, leaves in scope.leaves.items():
        own = frozenset([index])
        seeds.update({leaf.name: Dependence(own, own) for leaf in leaves})
    results = [t for t in results if tf.is_tensor(t) and t.graph is graph]
    return _follow(graph, seeds, results, loops.operations)[0]


def _placeholder(like):
    return tf.compat.v1.placeholder(like.dtype, like.shape)


def _follow(graph, seeds, results, taken_over=frozenset()):
    """Operations that some tensors of a graph are made of.

    Args:
        graph: A `FuncGraph`.
        seeds: Dict from names of tensors to what they depend on.
        results: List of the tensors.
        taken_over: Names of the operations that a second pass takes over as
            they are, where nothing that they depend on has changed.

    Returns:
        The list of `Operation`s, and the list of what the tensors depend on.
    """
    found, dependences = [], {}
    needed = _upstream(results, lambda operation, tensor: True)
    differentiable = [t for t in results if _is_differentiable(t)]
    receiving = _upstream(differentiable, _passes_gradient)
    for operation in graph.get_operations():
        if operation.name not in needed:
            continue
        operands = [dependences[t.name] for t in operation.inputs]
        if operation.name not in receiving or operation.type in STOPS:
            operands = [d._replace(gradients=frozenset()) for d in operands]
        inner, outcomes = _outcomes(operation, operands)
        if operation.type in LOOPS + BRANCHES:
            again = operation.name not in taken_over
            inner, outcomes = as_one(inner, outcomes, operands, again)
        found += inner
        for tensor, outcome in zip(operation.outputs, outcomes, strict=True):
            if not _is_differentiable(tensor):
                outcome = outcome._replace(gradients=frozenset())
            if tensor.name in seeds:
                seed = seeds[tensor.name]
                outcome = union([outcome, seed])
                outcome = outcome._replace(gradients=seed.gradients)
            dependences[tensor.name] = outcome
    return found, [dependences[t.name] for t in results]


def _outcomes(operation, operands):
    """An operation, and those inside it; what each of its results depends on.

    Args:
        operation: A `tf.Operation`.
        operands: List of what its operands depend on.
    """
    if operation.type in LOOPS:
        return _loop(operation, operands)
    if operation.type in BRANCHES:
        return _branches(operation, operands)
    if operation.type in CALLS:
        return _call(functions.graphs(operation, "f")[0], operands)
    outcome = union(operands)
    if operation.type in OF_SHAPES:
        outcome = Dependence()
    found = described(
        operation.type,
        flops.work(operation),
        operands,
        outcome,
        flops.is_product(operation),
    )
    return [found], [outcome] * len(operation.outputs)


def _call(graph, operands):
    names = [tensor.name for tensor in graph.inputs]
    seeds = dict(zip(names, operands, strict=True))
    return _follow(graph, seeds, graph.outputs)


def _loop(operation, operands):
    """Its body, as often as it runs, once what it depends on is settled."""
    (condition,) = functions.graphs(operation, "cond")
    (body,) = functions.graphs(operation, "body")
    settled = None
    while settled != operands:
        settled = operands
        found, outcomes = _call(body, operands)
        operands = [
            union(pair) for pair in zip(operands, outcomes, strict=True)
        ]
    times = functions.turns(operation, condition)
    return [o._replace(work=times * o.work) for o in found], operands


def _branches(operation, operands):
    """The branch of the most work; what any of them depends on."""
    names = ("then_branch", "else_branch")
    if "Case" in operation.type:
        names = ("branches",)
    branches = [
        _call(graph, operands[1:])
        for graph in functions.graphs(operation, *names)
    ]
    found, _ = max(branches, key=lambda branch: sum(o.work for o in branch[0]))
    decision = operands[0]._replace(gradients=frozenset())
    outcomes = zip(*(outcomes for _, outcomes in branches), strict=True)
    return found, [union([decision, *o]) for o in outcomes]


def _upstream(tensors, passes):
    """Names of the operations from which one comes to some tensors."""
    found, waiting = set(), [tensor.op for tensor in tensors]
    while waiting:
        operation = waiting.pop()
        if operation.name not in found:
            found.add(operation.name)
            waiting += [t.op for t in operation.inputs if passes(operation, t)]
    return found


def _passes_gradient(operation, tensor):
    return operation.type not in STOPS and _is_differentiable(tensor)


def _is_differentiable(tensor):
    # A variant is a list of tensors, of which loops and recurrences are made.
    dtype = tensor.dtype
    return dtype.is_floating or dtype.is_complex or dtype == tf.variant
