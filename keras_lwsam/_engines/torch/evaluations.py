"""Hessian products by differentiating a pass twice."""

import torch

from keras_lwsam._engines import evaluations
from keras_lwsam._engines.torch import randomness
from keras_lwsam._tensors import dot


class Evaluations(evaluations.Evaluations):
    """Functions of a batch and of the values of the weights, eager."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._random = randomness.state()

    def _evaluate(self, batch, at, wrt):
        # Each draws the same, and uses nothing up.
        now = randomness.state()
        randomness.restore(self._random)
        try:
            return super()._evaluate(batch, at, wrt)
        finally:
            randomness.restore(now)

    @staticmethod
    def _compiled(function):
        return function

    def _product(self, batch, at, vectors):
        r"""The Hessian times `vectors`, by differentiating twice.

        $$ H v = \nabla \langle \nabla L(w), v \rangle $$
        """
        at = list(at)
        for i in self._wrt:
            at[i] = at[i].detach().requires_grad_()
        leaves = [at[i] for i in self._wrt]
        with torch.enable_grad():
            slope = dot(self._gradients(batch, at), vectors)
        products = [None] * len(leaves)
        if slope.requires_grad:
            products = torch.autograd.grad(slope, leaves, allow_unused=True)
        return [
            torch.zeros_like(leaf) if product is None else product
            for leaf, product in zip(leaves, products, strict=True)
        ]
