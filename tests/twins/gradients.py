"""Methods of two gradients without a memory."""

import numpy as np

from tests.twins.vectors import perpendicular, ratio


class TwoGradients:
    """g at the weights, g~ at the perturbed weights, one update.

    `perturbation` returns eps, `combination` what the optimizer applies.
    """

    def __init__(self, rho=0.05):
        self.rho = rho

    def perturbation(self, bench, clean):
        """eps = rho g / norm(g)."""
        return self.rho * bench.direction(clean)

    def combination(self, bench, clean, sharp):
        """g~."""
        return sharp

    def step(self, bench, batch):
        """Two passes and an update."""
        clean = bench.evaluate(batch)
        epsilon = self.perturbation(bench, clean.gradient)
        sharp = bench.evaluate(batch, epsilon)
        gradient = self.combination(bench, clean.gradient, sharp.gradient)
        bench.update(gradient, counted=clean)
        return logs(bench, clean, sharp)


def logs(bench, clean, sharp=None):
    """What a step reports; without a perturbation sharpness is zero."""
    return {
        "loss": clean.loss,
        "sharpness": sharp.loss - clean.loss if sharp else 0.0,
        "gradient_norm": bench.norm(clean.gradient),
    }


class SAM(TwoGradients):
    """g~ at eps = rho g / norm(g)."""


class ASAM(TwoGradients):
    """eps = rho T^2 g / norm(T g), T = abs(w) + eta, 1 on biases and betas."""

    def __init__(self, rho=0.5, eta=0.01):
        super().__init__(rho)
        self.eta = eta

    def perturbation(self, bench, clean):
        """T times rho T g / norm(T g)."""
        plain = bench.spread(
            [v.name in ("bias", "beta") for v in bench.variables]
        )
        scale = np.where(plain, 1.0, np.abs(bench.weights) + self.eta)
        return self.rho * scale * bench.direction(scale * clean)


class GNP(TwoGradients):
    """(1 - alpha) g + alpha g~ on S, g~ elsewhere."""

    def __init__(self, rho=0.1, alpha=0.8):
        super().__init__(rho)
        self.alpha = alpha

    def combination(self, bench, clean, sharp):
        """(1 - alpha) g + alpha g~."""
        mixed = (1.0 - self.alpha) * clean + self.alpha * sharp
        return bench.where_selected(mixed, sharp)


class GSAM(TwoGradients):
    """g~ - alpha (g perpendicular to g~) on S, g~ elsewhere."""

    def __init__(self, rho=0.05, alpha=0.4):
        super().__init__(rho)
        self.alpha = alpha

    def combination(self, bench, clean, sharp):
        """g~ - alpha (g - (<g, g~> / norm(g~)^2) g~)."""
        across = perpendicular(
            bench.on_selected(clean), bench.on_selected(sharp)
        )
        return sharp - self.alpha * across


class StableSAM(TwoGradients):
    """(norm(g) / norm(g~)) g~ on S, ascending rho g or rho g / norm(g)."""

    def __init__(self, rho=0.05, normalize=False):
        super().__init__(rho)
        self.normalize = normalize

    def perturbation(self, bench, clean):
        """rho g, divided by its norm if so asked."""
        if self.normalize:
            return super().perturbation(bench, clean)
        return self.rho * bench.on_selected(clean)

    def combination(self, bench, clean, sharp):
        """(norm(g) / (norm(g~) + 1e-12)) g~."""
        scale = bench.norm(clean) / (bench.norm(sharp) + 1e-12)
        return bench.where_selected(scale * sharp, sharp)


class WSAM(TwoGradients):
    """g + (gamma / (1 - gamma)) (g~ - g) on S, g~ elsewhere.

    Decoupled: the optimizer applies g on S, and the rest displaces the
    weights by the learning rate, outside momentum.
    """

    def __init__(self, rho=0.05, gamma=0.9, decouple=True):
        super().__init__(rho)
        self.share = ratio(gamma, 1.0 - gamma)
        self.decouple = decouple

    def step(self, bench, batch):
        """Two passes, an update and a displacement."""
        clean = bench.evaluate(batch)
        epsilon = self.perturbation(bench, clean.gradient)
        sharp = bench.evaluate(batch, epsilon)
        extra = self.share * bench.on_selected(sharp.gradient - clean.gradient)
        base = bench.where_selected(clean.gradient, sharp.gradient)
        rate = float(bench.optimizer.learning_rate)
        if self.decouple:
            bench.update(base, counted=clean)
            bench.displace(-rate * extra)
        else:
            bench.update(base + extra, counted=clean)
        return logs(bench, clean, sharp)
