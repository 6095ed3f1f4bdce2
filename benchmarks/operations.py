"""Counts the operations that a training step executes."""

import collections
import re

import keras
import tensorflow as tf
from tensorflow.python.eager import context

# What counts as the work of a network, by what TensorFlow calls it on
# different devices after its own optimizations.
KINDS = {
    "convolution": r"(_Mkl|_Fused|Native|Fused)*Conv2D$",
    "convolution_backward": r"(_Mkl|Native)*Conv2DBackprop.*",
    "product": r"(_Mkl|_Fused|Native|Fused)*(Batch)?MatMul(V2|V3)?|"
    r"(_Mkl)?Einsum|XlaDot(V2)?",
    "random": r"StatelessRandom(Uniform|Normal)\w*|"
    r"StatelessTruncatedNormal\w*",
    "loop": r"LoopCond",
}

# Those that take most of the time.
PRODUCTS = ("convolution", "convolution_backward", "product")


def executed(model, x, y):
    """Counter of operation kinds in one step of `train_on_batch`.

    They are read off the graph that the runtime executed: after pruning and
    merging. The model must be compiled and not yet trained.
    """
    context.enable_run_metadata()
    context.export_run_metadata()  # Forgets the graphs of earlier steps.
    model.train_on_batch(x, y)
    metadata = context.export_run_metadata()
    context.disable_run_metadata()
    best = collections.Counter()
    for function in metadata.function_graphs:
        operations = collections.Counter(
            node.op
            for graph in function.partition_graphs
            for node in graph.node
        )
        if sum(operations.values()) > sum(best.values()):
            best = operations
    return by_kind(best)


def by_kind(operations):
    """Counter by `KINDS` from a counter by operation type."""
    counts = collections.Counter()
    for operation, count in operations.items():
        for kind, pattern in KINDS.items():
            if re.fullmatch(pattern, operation):
                counts[kind] += count
    return counts


def compiled_by_xla(model, x, y):
    """Counter of what XLA's program is made of, by the kinds above."""
    data = keras.tree.map_structure(tf.convert_to_tensor, (x, y))
    model.train_on_batch(x, y)  # Builds what is built by the first batch.
    step = tf.function(lambda *data: model.train_step(data), jit_compile=True)
    text = step.experimental_get_compiler_ir(*data)(stage="optimized_hlo")
    return collections.Counter(
        {
            "convolution": len(re.findall(r"= \S+ convolution\(", text))
            + len(re.findall(r"custom-call\(.*onednn\$conv", text)),
            "product": len(re.findall(r"= \S+ dot\(", text))
            + len(re.findall(r"custom-call\(.*onednn\$matmul", text)),
            "loop": len(re.findall(r"\) while\(", text)),
            # XLA writes the random generator out in plain arithmetic: these
            # are its bit operations, some hundred a draw.
            "random": len(re.findall(r"= \S+ xor\(", text)),
        }
    )
