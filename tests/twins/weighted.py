"""Methods that weigh samples or ascend another objective."""

import keras
import numpy as np
from keras import ops

from tests.backends import differentiated, to_numpy
from tests.twins.gradients import SAM


class Only:
    """In place of a network: one variable."""

    non_trainable_variables = ()

    def __init__(self, variable):
        self.trainable_variables = [variable]


class BiSAM(SAM):
    """Ascends Q = (1 / mu) logsumexp_j mu phi(logit_j - logit_y).

    Q has no regularization. Descends the ordinary loss.
    """

    def __init__(self, rho=0.05, mu=1.0, phi="log", alpha=0.1):
        super().__init__(rho)
        self.mu = mu
        self.phi = phi
        self.alpha = alpha

    def step(self, bench, batch):
        """Three passes and an update."""
        clean = bench.evaluate(batch)
        ascent = bench.evaluate(batch, function=self.objective, regular=False)
        epsilon = self.perturbation(bench, ascent.gradient)
        sharp = bench.evaluate(batch, epsilon)
        bench.update(sharp.gradient, counted=clean)
        return {
            "loss": clean.loss,
            "sharpness": sharp.loss - clean.loss,
            "gradient_norm": bench.norm(ascent.gradient),
        }

    def objective(self, y, logits):
        """Q of each sample."""
        y = ops.reshape(ops.cast(y, "int32"), (-1, 1))
        margins = logits - ops.take_along_axis(logits, y, axis=1)
        values = self.mu * self.bounded(margins)
        return ops.logsumexp(values, axis=-1) / self.mu

    def bounded(self, x):
        """log: 1 - log(1 + exp(c - x)), c = log(e - 1); tanh: tanh(alpha x)."""
        if self.phi == "tanh":
            return ops.tanh(self.alpha * x)
        return 1.0 - ops.softplus(float(np.log(np.e - 1.0)) - x)


class DeltaSAM(SAM):
    """eps along the gradient of a loss with weights on its samples.

    The weights are as the norms of the gradients of the samples' losses with
    respect to the network's outputs, and have mean 1.
    """

    def step(self, bench, batch):
        """Three passes and an update."""
        clean = bench.evaluate(batch)
        weights = self.sample_weights(bench, batch, clean.predictions)
        ascent = bench.evaluate(batch.times(weights))
        epsilon = self.perturbation(bench, ascent.gradient)
        sharp = bench.evaluate(batch, epsilon)
        bench.update(sharp.gradient, counted=clean)
        return {
            "loss": clean.loss,
            "sharpness": sharp.loss - clean.loss,
            "gradient_norm": bench.norm(ascent.gradient),
        }

    def sample_weights(self, bench, batch, predictions):
        """Norms divided by their mean; zero if all are."""
        outputs = keras.Variable(predictions)

        def compute():
            values = bench.per_sample_loss(batch.y, outputs.value)
            return ops.sum(values), values

        rows = differentiated(Only(outputs), compute)[1][0]
        rows = to_numpy(rows).astype("float64")
        norms = np.sqrt(np.sum(rows.reshape(len(batch), -1) ** 2, axis=1))
        return norms / norms.mean() if norms.any() else norms


class ImbSAM(SAM):
    """Gradient of the head plus tail_weight times that of the tail at w + eps.

    The tail are the classes with fewer than eta training samples; eps comes
    from their loss alone. Both losses are divided by the whole batch size,
    and only that of the head has regularization.
    """

    def __init__(self, class_counts, rho=0.05, eta=20, tail_weight=2.0):
        super().__init__(rho)
        self.is_tail = np.asarray(class_counts) < eta
        self.tail_weight = tail_weight

    def step(self, bench, batch):
        """Three passes on the whole batch and an update."""
        in_tail = self.is_tail[batch.y.reshape(-1)]
        tail_batch = batch.times(in_tail)
        head = bench.evaluate(batch.times(~in_tail))
        tail = bench.evaluate(tail_batch, regular=False)
        epsilon = self.perturbation(bench, tail.gradient)
        sharp = bench.evaluate(tail_batch, epsilon, regular=False)
        gradient = head.gradient + self.tail_weight * sharp.gradient
        bench.update(gradient, counted=head)
        return {
            "loss": head.loss + tail.loss,
            "sharpness": sharp.loss - tail.loss,
            "gradient_norm": bench.norm(tail.gradient),
        }
