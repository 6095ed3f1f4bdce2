"""Loss, gradients and Hessian products of one network, outside training."""

import jax
from jax import numpy as jnp

from keras_lwsam._engines import evaluations


class Evaluations(evaluations.Evaluations):
    """Functions of a batch and of the values of the weights, jitted."""

    _compiled = staticmethod(jax.jit)

    def _product(self, batch, at, vectors):
        r"""The Hessian times `vectors`: how the gradient changes along them.

        $$ H v = \frac{d}{d t} \nabla L(w + t v) \Big|_{t = 0} $$
        """

        def gradients(leaves):
            moved = list(at)
            for i, leaf in zip(self._wrt, leaves, strict=True):
                moved[i] = leaf
            return self._gradients(batch, moved)

        leaves = [at[i] for i in self._wrt]
        along = [
            jnp.asarray(vector, leaf.dtype)
            for vector, leaf in zip(vectors, leaves, strict=True)
        ]
        return jax.jvp(gradients, (leaves,), (along,))[1]
