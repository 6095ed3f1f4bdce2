"""The PyTorch engine: eager, with one graph of autograd for all passes."""

import contextlib
import functools

import torch
from keras import tree

from keras_lwsam import _keras
from keras_lwsam._engines import arrays
from keras_lwsam._engines.engine import Engine
from keras_lwsam._engines.evaluation import Evaluation
from keras_lwsam._engines.scopes import Pass
from keras_lwsam._engines.torch import operations, randomness
from keras_lwsam._engines.torch.carrier import Batches
from keras_lwsam._engines.torch.evaluations import Evaluations
from keras_lwsam._engines.torch.shared import Outputs


class TorchEngine(Engine):
    """Evaluates and applies gradients of one step by `torch.autograd`."""

    carrier = Batches
    evaluations = Evaluations
    operations = operations

    def __init__(self, *args, **kwargs):
        self._has_drawn = False
        super().__init__(*args, **kwargs)

    @staticmethod
    def compiled(function, example, jit_compile=False):
        """The function itself: PyTorch runs it as it is."""
        return function

    @staticmethod
    def snapshot(variables):
        # An update changes a tensor in its place.
        return [v.value.detach().clone() for v in variables]

    def look(self):
        super().look()
        self._outputs = Outputs(self._network)
        self._leaves = {}
        self._given = {}
        self._random = randomness.state()

    def _pass(self, batch, at, wrt, options):
        # All passes draw the same; only what the first one drew is used up.
        now = randomness.state()
        randomness.restore(self._random)
        try:
            return self._evaluated(batch, at, wrt, options)
        finally:
            if self._has_drawn:
                randomness.restore(now)
            self._has_drawn = True

    def _evaluated(self, batch, at, wrt, options):
        x, y, sample_weight = batch
        sample_weight = arrays.each(self._unmasked, sample_weight)
        batch = x, y, sample_weight
        guard = contextlib.nullcontext()
        ones = None
        if options.sample_losses:
            ones = _leaf(torch.ones(arrays.size(batch), device=_device(at)))
            # Keras multiplies weights by masks in their place: not the leaf.
            x, y, sample_weight = arrays.weighted(batch, ones.clone())
            guard = self._per_sample(arrays.has_positions(sample_weight))
        differentiates = bool(wrt) or options.sample_losses
        # Somebody differentiates through this pass.
        is_inside = any(value.requires_grad for value in at)
        if differentiates:
            # By what a later pass takes over it may have to be differentiated;
            # and the slopes of samples are those of predictions.
            is_wanted = self._outputs.are_shared or options.sample_losses
            at = [
                self._as_leaf(value)
                if i in wrt or (is_wanted and self._weights[i].trainable)
                else value
                for i, value in enumerate(at)
            ]
        scope = Pass(
            self._weights,
            at,
            self._rest,
            wrt,
            torch.Tensor.detach,
            lambda value, index: value if value.requires_grad else _leaf(value),
        )
        shared = contextlib.nullcontext()
        if differentiates:
            x = self._outputs.inputs(x)
            shared = self._outputs.shared(scope)
        with torch.set_grad_enabled(differentiates), scope, shared:
            predictions = _keras.call(self._network, x, options.training)
            # The loss is one of logits behind a last softmax, too.
            outputs = [
                getattr(output, "_keras_logits", output)
                for output in tree.flatten(predictions)
                if output is not None
            ]
            with guard:
                loss = self._loss(x, y, predictions, sample_weight, options)
            scaled = self._optimizer.scale_loss(loss)
        owners = [i for i in wrt for _ in scope.leaves[i]]
        sources = [leaf for i in wrt for leaf in scope.leaves[i]]
        if options.sample_losses:
            sources += [ones, *outputs]
        with scope:
            # What is computed again on the way back reads these values, too.
            found = _differentiated(scaled, sources, is_inside)
        gradients = [None] * len(at)
        for i, gradient in zip(owners, found, strict=False):
            if gradient is not None:
                known = gradients[i]
                gradients[i] = gradient if known is None else known + gradient
        evaluation = Evaluation(
            loss=loss.detach(),
            gradients=gradients,
            predictions=tree.map_structure(
                functools.partial(_keras.keeping_mask, torch.Tensor.detach),
                predictions,
                none_is_leaf=True,
            ),
            assignments=[
                (variable, value.detach())
                for variable, value in scope.assignments.values()
            ],
        )
        if not options.sample_losses:
            return evaluation
        of_ones, *of_outputs = found[len(owners) :]
        return self._with_samples(evaluation, of_ones, of_outputs)

    def _unmasked(self, weights):
        """Weights of samples as they were given to the first pass.

        Keras multiplies them by masks in their place.
        """
        if not torch.is_tensor(weights):
            return weights
        if id(weights) not in self._given:
            self._given[id(weights)] = (weights, weights.clone())
            return weights
        return self._given[id(weights)][1].clone()

    def _as_leaf(self, value):
        """A value that gradients can be taken of, the same in all passes."""
        if value.requires_grad:
            return value
        if id(value) not in self._leaves:
            self._leaves[id(value)] = (value, _leaf(value))
        return self._leaves[id(value)][1]

    def _conditionally(self, when, evaluate, at, wrt):
        if bool(when):
            return evaluate()
        gradients = [None] * len(at)
        for i in wrt:
            gradients[i] = torch.zeros_like(at[i])
        return Evaluation(loss=at[0].new_zeros(()), gradients=gradients)

    def _update(self, gradients, variables):
        gradients = [
            _laid_out(gradient, variable.value)
            for gradient, variable in zip(gradients, variables, strict=True)
        ]
        with torch.no_grad():
            self._optimizer.apply(gradients, variables)


def _leaf(value):
    """A leaf of autograd's graph."""
    return value.detach().requires_grad_()


def _laid_out(gradient, weight):
    """A gradient in the layout of its weight, as `backward` leaves it.

    In another one PyTorch's updates of lists of tensors round differently.
    """
    if gradient is None or gradient.stride() == weight.stride():
        return gradient
    return torch.empty_like(weight, dtype=gradient.dtype).copy_(gradient)


def _device(at):
    return at[0].device if at else None


def _differentiated(loss, sources, is_inside):
    """Gradients of a loss; `None` where it does not depend on a source.

    Only what lies between is walked back, so the first backward pass ends at
    the shallowest weight that is asked for. What it has walked is kept: another
    pass may have it in common.

    Args:
        loss: Scalar.
        sources: List of tensors.
        is_inside: Whether the gradients are to be differentiated, too.
    """
    gradients = [None] * len(sources)
    asked = [i for i, source in enumerate(sources) if source.requires_grad]
    if asked and loss.requires_grad:
        found = torch.autograd.grad(
            loss,
            [sources[i] for i in asked],
            allow_unused=True,
            retain_graph=True,
            create_graph=is_inside,
        )
        for i, gradient in zip(asked, found, strict=True):
            gradients[i] = gradient
    return gradients
