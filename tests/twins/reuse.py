"""Methods that skip the second gradient in some steps."""

import math

from tests.twins.gradients import SAM, logs
from tests.twins.vectors import norm, perpendicular, ratio


def keep_component(bench, clean, sharp):
    """g_v = g~ - (<g, g~> / norm(g)^2) g on S; rounding noise is zero."""
    sharp = bench.on_selected(sharp)
    component = perpendicular(sharp, bench.on_selected(clean))
    if norm(component) < 1e-6 * norm(sharp):
        component = 0.0 * component
    bench.memory["component"] = component


def with_component(bench, clean, alpha):
    """g + alpha (norm(g) / norm(g_v)) g_v on S, g elsewhere."""
    component = bench.memory.get("component", 0.0 * clean)
    scale = ratio(bench.norm(clean), norm(component))
    return clean + alpha * scale * component


class Sparing(SAM):
    """SAM in the steps that `is_due`, `spared` in the others."""

    def step(self, bench, batch):
        """One or two passes and an update."""
        clean = bench.evaluate(batch)
        if not self.is_due(bench, clean.gradient):
            bench.update(self.spared(bench, clean.gradient), counted=clean)
            return logs(bench, clean)
        epsilon = self.perturbation(bench, clean.gradient)
        sharp = bench.evaluate(batch, epsilon)
        keep_component(bench, clean.gradient, sharp.gradient)
        bench.update(sharp.gradient, counted=clean)
        return logs(bench, clean, sharp)


class LookSAM(Sparing):
    """SAM every k steps; g with the kept component g_v in the others."""

    def __init__(self, rho=0.05, k=5, alpha=0.7):
        super().__init__(rho)
        self.k = k
        self.alpha = alpha

    def is_due(self, bench, clean):
        """t mod k = 0."""
        return bench.step_number % self.k == 0

    def spared(self, bench, clean):
        """g + alpha (norm(g) / norm(g_v)) g_v."""
        return with_component(bench, clean, self.alpha)


class AESAM(Sparing):
    """SAM when norm(g)^2 >= mu + c s, mu and s^2 its moving moments.

    c goes from lambda2 to lambda1 with `progress`, a function from the number
    of the step to the share of the training that is done.
    """

    def __init__(
        self,
        rho=0.05,
        lambda1=-1.0,
        lambda2=1.0,
        decay=0.9,
        *,
        progress=lambda step_number: 0.0,
    ):
        super().__init__(rho)
        self.lambda1 = lambda1
        self.lambda2 = lambda2
        self.decay = decay
        self.progress = progress

    def is_due(self, bench, clean):
        """Moves the moments, then compares with the new ones."""
        square = bench.norm(clean) ** 2
        mean, variance = bench.memory.get("moments", (square, 0.0))
        mean = self.decay * mean + (1.0 - self.decay) * square
        deviation = (square - mean) ** 2
        variance = self.decay * variance + (1.0 - self.decay) * deviation
        bench.memory["moments"] = mean, variance
        threshold = self.threshold(bench.step_number)
        if math.isinf(threshold):
            return threshold < 0.0
        return square - mean >= threshold * math.sqrt(variance)

    def threshold(self, step_number):
        """c = lambda2 + progress (lambda1 - lambda2)."""
        # The difference of two infinities is not a number.
        if self.lambda1 == self.lambda2:
            return self.lambda1
        change = self.lambda1 - self.lambda2
        return self.lambda2 + self.progress(step_number) * change

    def spared(self, bench, clean):
        """g."""
        return clean


class AELookSAM(AESAM):
    """AESAM; g with the kept component g_v in the other steps."""

    def __init__(
        self,
        rho=0.05,
        lambda1=-1.0,
        lambda2=1.0,
        decay=0.9,
        alpha=0.7,
        *,
        progress=lambda step_number: 0.0,
    ):
        super().__init__(rho, lambda1, lambda2, decay, progress=progress)
        self.alpha = alpha

    def spared(self, bench, clean):
        """g + alpha (norm(g) / norm(g_v)) g_v."""
        return with_component(bench, clean, self.alpha)
