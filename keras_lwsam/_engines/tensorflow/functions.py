"""The functions that operations of a TensorFlow graph call: loops, branches."""

import numpy as np
import tensorflow as tf


def compiled(function, example, jit_compile=False):
    """A function of one argument, compiled for arguments like an example."""
    # What Keras calls is no source for autograph.
    traced = tf.function(function, jit_compile=jit_compile, autograph=False)
    return traced.get_concrete_function(example)


def graphs(operation, *attributes):
    """The graphs of the functions that an operation names.

    Args:
        operation: A `tf.Operation`.
        *attributes: Names of the attributes in which it names them.
    """
    named = []
    for attribute in attributes:
        value = operation.get_attr(attribute)
        named += value if isinstance(value, list) else [value]
    return [_graph_of(operation.graph, function.name) for function in named]


def _graph_of(graph, name):
    # A function inside another may be known to the outer graph only.
    while graph._get_function(name) is None:
        graph = graph.outer_graph
    return graph._get_function(name).graph


def turns(loop, condition):
    """How often a loop counts up to a known limit; 1 if there is none.

    Args:
        loop: The `tf.Operation`.
        condition: The graph of its condition.
    """
    outside = dict(
        zip([t.name for t in condition.inputs], loop.inputs, strict=True)
    )
    counted = []
    for operation in condition.get_operations():
        if operation.type == "Less":
            start, limit = (
                tf.get_static_value(outside.get(tensor.name, tensor))
                for tensor in operation.inputs
            )
            are_known = start is not None and limit is not None
            if are_known and np.ndim(start) == np.ndim(limit) == 0:
                counted.append(int(limit - start))
    return max(0, min(counted, default=1))
