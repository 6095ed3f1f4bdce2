"""Floating-point operations of an operation of PyTorch, from its shapes."""

import torch
from torch.utils import flop_counter

# Those whose result is smaller than what they read and compute with.
REDUCTIONS = ("sum", "mean", "amax", "amin", "max", "min", "prod", "var")
REDUCTIONS += ("var_mean", "max_pool2d_with_indices", "avg_pool2d")
# Another name, or another shape, for the same numbers.
FREE = ("view", "_unsafe_view", "t", "transpose", "permute", "expand")
FREE += ("alias", "detach", "slice", "select", "squeeze", "unsqueeze")
FREE += ("empty", "empty_like", "clone", "_reshape_alias", "lift_fresh")


def is_product(function) -> bool:
    """Whether the gradient of each operand is a product as large as itself."""
    return function.overloadpacket in flop_counter.flop_registry


def work(function, args, kwargs, results) -> float:
    """Floating-point operations: two for each multiplication and addition.

    What is no product counts one for each number that it returns; a reduction,
    one for each number that it reads.

    Args:
        function: A `torch._ops.OpOverload`.
        args: What it was given.
        kwargs: What it was given by name.
        results: What it has returned.
    """
    name = function.overloadpacket.__name__
    returned = [r for r in tensors(results) if r.is_floating_point()]
    if name in FREE or not returned:
        return 0.0
    if is_product(function):
        count = flop_counter.flop_registry[function.overloadpacket]
        return float(count(*args, **kwargs, out_val=results))
    if name in REDUCTIONS:
        return float(max(t.numel() for t in tensors(args)))
    return float(max(r.numel() for r in returned))


def tensors(values):
    """The tensors in a structure."""
    leaves = torch.utils._pytree.tree_leaves(values)
    return [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
