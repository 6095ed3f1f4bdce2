"""Methods with other numbers of gradients than two."""

import keras
import numpy as np

from tests.twins.gradients import logs
from tests.twins.vectors import norm, perpendicular


class GAM:
    """G - gamma (the part of g0 + abs(b2) g2 perpendicular to G) on S.

    g1 at w + r g0 / norm(g0); g2 at w2 = w + rho (g1 - g0) / norm(g1 - g0);
    g3 at w2 + r g2 / norm(g2), r = grad_rho; G = b1 g1 + b3 g3.
    """

    def __init__(
        self, rho=0.2, grad_rho=0.02, b1=1.0, b2=-1.0, b3=1.0, gamma=0.03
    ):
        self.rho = rho
        self.grad_rho = grad_rho
        self.b1 = b1
        self.b2 = b2
        self.b3 = b3
        self.gamma = gamma

    def step(self, bench, batch):
        """Four passes and an update."""
        clean = bench.evaluate(batch)
        g0 = clean.gradient
        sharp = bench.evaluate(batch, self.grad_rho * bench.direction(g0))
        g1 = sharp.gradient
        away = self.rho * bench.direction(g1 - g0)
        g2 = bench.evaluate(batch, away).gradient
        ascent = self.grad_rho * bench.direction(g2)
        g3 = bench.evaluate(batch, away + ascent).gradient
        total = self.b1 * g1 + self.b3 * g3
        across = perpendicular(
            bench.on_selected(g0 + abs(self.b2) * g2), bench.on_selected(total)
        )
        bench.update(total - self.gamma * across, counted=clean)
        return logs(bench, clean, sharp)


class AMP:
    """Per variable, delta <- delta + inner_lr g, clipped to norm epsilon.

    inner_iter times; the gradient at w + delta is applied.
    """

    def __init__(self, epsilon=0.5, inner_lr=1.0, inner_iter=1):
        self.epsilon = epsilon
        self.inner_lr = inner_lr
        self.inner_iter = inner_iter

    def step(self, bench, batch):
        """inner_iter + 1 passes and an update."""
        delta = 0.0 * bench.weights
        clean = there = bench.evaluate(batch)
        for _ in range(self.inner_iter):
            moved = delta + self.inner_lr * bench.on_selected(there.gradient)
            delta = self.clipped(bench, moved)
            there = bench.evaluate(batch, delta)
        bench.update(there.gradient, counted=clean)
        return logs(bench, clean, there)

    def clipped(self, bench, delta):
        """Each variable's part has at most the norm epsilon."""
        delta = delta.copy()
        for part in bench.split(delta):
            length = norm(part.ravel())
            if length > self.epsilon:
                part *= self.epsilon / length
        return delta


class SmoothOut:
    """One gradient, at w + U(-a, a) on S without BatchNorm."""

    def __init__(self, a=0.006):
        self.a = a

    def step(self, bench, batch):
        """One pass and an update."""
        there = bench.evaluate(batch, self.noise(bench))
        bench.update(there.gradient, counted=there)
        return {"loss": there.loss}

    def noise(self, bench):
        """A draw u of [0, 1) becomes a (2 u - 1)."""
        excluded = batch_normalization_variables(bench.network)
        noise = 0.0 * bench.weights
        parts = bench.split(noise)
        for v, part, chosen in zip(
            bench.variables, parts, bench.chosen, strict=True
        ):
            if chosen and id(v) not in excluded:
                uniform = np.float64(bench.draws.uniform(tuple(v.shape)))
                part[...] = self.a * (2.0 * uniform - 1.0)
        return noise


def batch_normalization_variables(network):
    """Their identities."""
    return {
        id(v)
        for layer in network._flatten_layers()
        if isinstance(layer, keras.layers.BatchNormalization)
        for v in layer.trainable_variables
    }


class EntropySGD:
    """w - mu on S, after a walk of `steps` steps from w.

    w' <- w' - .1 (g + gamma (w' - w) + noise), mu <- .75 mu + .25 w', gamma =
    gamma0 (1 + gamma1)^t. Elsewhere the mean of the walk's gradients, m <-
    .75 m + .25 g from the first g on.
    """

    def __init__(self, steps=20, gamma0=0.03, gamma1=1e-3, noise=1e-4):
        self.steps = steps
        self.gamma0 = gamma0
        self.gamma1 = gamma1
        self.noise = noise

    def step(self, bench, batch):
        """One pass a step of the walk, and an update."""
        pull = self.gamma0 * (1.0 + self.gamma1) ** bench.step_number
        away, mean_away = 0.0 * bench.weights, 0.0 * bench.weights
        clean, mean_gradient = None, None
        for _ in range(self.steps):
            there = bench.evaluate(batch, away)
            if clean is None:
                clean, mean_gradient = there, there.gradient
            mean_gradient = 0.75 * mean_gradient + 0.25 * there.gradient
            drift = there.gradient + pull * away + self.kicks(bench)
            away = away - 0.1 * bench.on_selected(drift)
            mean_away = 0.75 * mean_away + 0.25 * away
        gradient = bench.where_selected(-mean_away, mean_gradient)
        bench.update(gradient, counted=clean)
        return {
            "loss": clean.loss,
            "gradient_norm": bench.norm(clean.gradient),
        }

    def kicks(self, bench):
        """Normal noise on S."""
        kicks = 0.0 * bench.weights
        for part, chosen in zip(bench.split(kicks), bench.chosen, strict=True):
            if chosen:
                part[...] = self.noise * bench.draws.normal(part.shape)
        return kicks
