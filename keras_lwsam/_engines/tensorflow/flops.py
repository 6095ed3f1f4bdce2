"""Floating-point operations of a TensorFlow operation, from its shapes."""

import math
import re

MATRIX_PRODUCTS = ("MatMul", "BatchMatMul", "BatchMatMulV2", "BatchMatMulV3")
CONVOLUTIONS = ("Conv2D", "Conv3D", "DepthwiseConv2dNative")
# A transposed convolution: the backward pass of one, used as a forward pass.
TRANSPOSED = (
    "Conv2DBackpropInput",
    "Conv3DBackpropInputV2",
    "DepthwiseConv2dNativeBackpropInput",
)
RECURRENT = ("CudnnRNN", "CudnnRNNV2", "CudnnRNNV3")
# Those whose result is smaller than what they read and compute with.
REDUCTIONS = ("Sum", "Mean", "Max", "Min", "Prod", "EuclideanNorm", "L2Loss")
POOLINGS = ("MaxPool", "AvgPool", "MaxPool3D", "AvgPool3D", "MaxPoolV2")
# Another name, or another shape, for the same numbers.
FREE = ("Const", "Placeholder", "Identity", "IdentityN", "StopGradient")
FREE += ("Reshape", "Squeeze", "ExpandDims")


def is_product(operation) -> bool:
    """Whether the gradient of each operand is a product as large as itself."""
    if operation.type == "Einsum":
        return len(operation.inputs) > 1
    products = MATRIX_PRODUCTS + CONVOLUTIONS + TRANSPOSED + RECURRENT
    return operation.type in products


def work(operation) -> float:
    """Floating-point operations: two for each multiplication and addition.

    What is no product counts one for each number that it returns; a reduction,
    one for each number that it reads. A dimension that is not known counts 1.

    Args:
        operation: A `tf.Operation`.
    """
    kind, inputs = operation.type, operation.inputs
    results = [t for t in operation.outputs if t.dtype.is_floating]
    if kind in FREE or not results:
        return 0.0
    if kind in MATRIX_PRODUCTS:
        return 2.0 * _size(results[0]) * _inner_dimension(operation)
    if kind in CONVOLUTIONS:
        return 2.0 * _size(results[0]) * _fan_in(kind, inputs[1])
    if kind in TRANSPOSED:
        return 2.0 * _size(inputs[2]) * _fan_in(kind, inputs[1])
    if kind in RECURRENT:
        steps, samples = (d or 1 for d in inputs[0].shape[:2])
        return 2.0 * steps * samples * _size(inputs[3])
    if is_product(operation):
        return 2.0 * _labelled_size(operation)
    if kind in REDUCTIONS + POOLINGS:
        return float(_size(inputs[0]))
    return float(max(_size(t) for t in results))


def _size(tensor):
    if tensor.shape.rank is None:
        return 1
    return math.prod(d or 1 for d in tensor.shape)


def _inner_dimension(operation):
    transposed = "transpose_a" if operation.type == "MatMul" else "adj_x"
    axis = -2 if operation.get_attr(transposed) else -1
    return operation.inputs[0].shape[axis] or 1


def _fan_in(kind, kernel):
    """How many numbers a convolution multiplies for each that it returns."""
    outputs = 2 if kind.startswith("Depthwise") else 1
    return math.prod(kernel.shape[:-outputs])


def _labelled_size(operation):
    """The product of all dimensions that an Einsum names, each once."""
    equation = operation.get_attr("equation").decode()
    terms = equation.split("->")[0].split(",")
    sizes = {}
    for term, tensor in zip(terms, operation.inputs, strict=True):
        labels = re.findall(r"\.\.\.|\w", term)
        hidden = len(tensor.shape) - len([x for x in labels if x != "..."])
        # The dimensions of an ellipsis are counted from its end.
        names = [
            name
            for label in labels
            for name in (
                [f"...{i}" for i in range(hidden, 0, -1)]
                if label == "..."
                else [label]
            )
        ]
        for name, size in zip(names, tensor.shape, strict=True):
            sizes[name] = max(sizes.get(name, 1), size or 1)
    return math.prod(sizes.values())
