"""Curvature: eigenvalues and trace of the Hessian of the loss."""

import numpy as np

from keras_lwsam import _arguments
from keras_lwsam.analysis.objective import objective_of
from keras_lwsam.analysis.sharpness import Estimate

# A Hessian of so few weights is written out.
_SMALL = 20


def hessian_eigenvalues(
    model,
    x=None,
    y=None,
    sample_weight=None,
    *,
    k: int = 1,
    layers: str | list[str] | None = None,
    tol: float = 1e-3,
    max_products: int = 1000,
    seed: int = 0,
    batch_size: int = 32,
    training: bool = False,
) -> np.ndarray:
    r"""The k largest eigenvalues of the Hessian of the loss.

    $$ H_S = \nabla_S^2 L(w) $$

    by the implicitly restarted Lanczos method of `scipy.sparse.linalg.eigsh`
    over Hessian-vector products, about 20 of them and more for each restart;
    with k > 1 about 20 more, to see whether an eigenvalue occurs more than
    once. Each costs about as much as two gradients of all of the data. The
    Hessian itself is never formed (but for at most 20 weights).

    Layers that overwrite their gradients (`SpectralNormalization` in training)
    have no Hessian; bilinear resizing has none in TensorFlow, and is refused.

    Args:
        model: A compiled model, or an `Objective`, which holds its data.
        x: Inputs, and `y`, `sample_weight`: whatever `evaluate` takes.
        y: Targets.
        sample_weight: Weights of the samples.
        k: Number of eigenvalues, a positive int, at most the number of
            weights. Defaults to `1`.
        layers: Path of the layer, or list of paths, whose block of the Hessian
            is looked at; `None`: all.
        tol: Relative accuracy, a float > 0. Defaults to `1e-3`. float32
            networks do not allow much less than `1e-5`.
        max_products: Largest number of Hessian-vector products. Defaults to
            `1000`.
        seed: Seed of the starting vector, a non-negative int. Defaults to `0`.
        batch_size: Samples evaluated at a time. Defaults to `32`.
        training: Whether the network is called as in training. Defaults to
            `False`.

    Returns:
        Vector of k numbers, the largest first, in units of the loss per
        squared unit of the weights.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If an argument is out of range, or if the network has no
            second derivatives.
        ImportError: If scipy is not installed.
        RuntimeError: If `max_products` do not suffice, or if loss or gradient
            are not finite.

    Example:

    >>> import keras, numpy as np
    >>> from keras_lwsam import analysis
    >>> model = keras.Sequential([
    ...     keras.Input((2,)), keras.layers.Dense(1, use_bias=False)
    ... ])
    >>> model.compile(loss="mse")
    >>> x, y = np.diag([2.0, 1.0]), np.zeros((2, 1))
    >>> analysis.hessian_eigenvalues(model, x, y, k=2).round(4).tolist()
    [4.0, 1.0]
    """
    _arguments.count("k", k)
    tol = _arguments.positive("tol", tol)
    _arguments.count("max_products", max_products)
    _arguments.count("seed", seed, minimum=0)
    objective = objective_of(model, x, y, sample_weight, batch_size, training)
    places = np.flatnonzero(objective.places(layers))
    return largest_eigenvalues(objective, places, k, tol, max_products, seed)


def largest_eigenvalues(
    objective, places, k, tol=1e-3, max_products=1000, seed=0
):
    """Those of the block of the Hessian at some places of the vector."""
    linalg = scipy_linalg()
    size = len(places)
    if k > size:
        raise ValueError(
            "`k` must be at most the number of weights: ask for fewer "
            f"eigenvalues, or of more layers. Received: k={k}, for {size} "
            "weights"
        )
    left = max_products

    def product(part):
        nonlocal left
        if left == 0:
            raise RuntimeError(
                f"The eigenvalues have not converged in {max_products} "
                "Hessian-vector products. Ask for fewer, raise `tol`, or raise "
                f"`max_products`. Received: k={k}, max_products={max_products}"
            )
        left -= 1
        vector = np.zeros(objective.size)
        vector[places] = np.ravel(part)
        result = objective.product(vector)[places]
        if not np.isfinite(result).all():
            raise RuntimeError(
                "The Hessian is not finite at these weights. Look at the loss "
                "there. Received: a Hessian-vector product with infinite or "
                "NaN entries"
            )
        return result

    if size <= _SMALL or k == size:
        hessian = np.stack([product(row) for row in np.eye(size)])
        values = np.linalg.eigvalsh((hessian + hessian.T) / 2.0)
        return values[::-1][:k]
    generator = np.random.default_rng(seed)
    if not product(generator.normal(size=size)).any():
        # A zero matrix has no Krylov space to iterate in.
        return np.zeros(k)

    def largest(function, number):
        operator = linalg.LinearOperator(
            (size, size), function, dtype="float64"
        )
        start = generator.normal(size=size)
        return linalg.eigsh(operator, number, which="LA", v0=start, tol=tol)

    values, vectors = largest(product, k)
    while k > 1:
        # A Krylov space knows each eigenvalue once, however often it occurs:
        # what is there beside the eigenvectors that are known?
        more, vector = largest(_beside(vectors, values, product), 1)
        if more[0] <= np.sort(values)[-k] + tol * np.abs(values).max():
            break
        values = np.concatenate([values, more])
        vectors = np.linalg.qr(np.concatenate([vectors, vector], axis=1))[0]
    return np.sort(values)[::-1][:k]


def _beside(vectors, values, product):
    """The same product on what is orthogonal to some vectors.

    They themselves become eigenvectors of a value below all others.
    """
    below = 2.0 * np.abs(values).max()

    def project(vector):
        return vector - vectors @ (vectors.T @ vector)

    def function(vector):
        vector = np.ravel(vector)
        inside = vectors @ (vectors.T @ vector)
        return project(product(vector - inside)) - below * inside

    return function


def hessian_trace(
    model,
    x=None,
    y=None,
    sample_weight=None,
    *,
    num_samples: int = 10,
    layers: str | list[str] | None = None,
    seed: int = 0,
    batch_size: int = 32,
    training: bool = False,
) -> Estimate:
    r"""The trace of the Hessian of the loss, by Hutchinson's estimator.

    $$ \mathrm{tr}\, H = E [v^T H v], \qquad v_i = \pm 1 $$

    Args:
        model: A compiled model, or an `Objective`, which holds its data.
        x: Inputs, and `y`, `sample_weight`: whatever `evaluate` takes.
        y: Targets.
        sample_weight: Weights of the samples.
        num_samples: Number of draws, a positive int; each takes one
            Hessian-vector product. Defaults to `10`.
        layers: As of `hessian_eigenvalues`.
        seed: Seed of the draws, a non-negative int. Defaults to `0`.
        batch_size: Samples evaluated at a time. Defaults to `32`.
        training: As of `hessian_eigenvalues`.

    Returns:
        An `Estimate`, with `mean` and `error` in units of the loss per squared
        unit of the weights.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If an argument is out of range, or if the network has no
            second derivatives.

    Example:

    >>> import keras, numpy as np
    >>> from keras_lwsam import analysis
    >>> model = keras.Sequential([
    ...     keras.Input((2,)), keras.layers.Dense(1, use_bias=False)
    ... ])
    >>> model.compile(loss="mse")
    >>> x, y = np.diag([2.0, 1.0]), np.zeros((2, 1))
    >>> round(analysis.hessian_trace(model, x, y).mean, 4)
    5.0

    References:
        Hutchinson: A stochastic estimator of the trace of the influence
        matrix for Laplacian smoothing splines, 1989.
    """
    _arguments.count("num_samples", num_samples)
    _arguments.count("seed", seed, minimum=0)
    objective = objective_of(model, x, y, sample_weight, batch_size, training)
    places = objective.places(layers)
    draws = rademacher_products(objective, places, num_samples, seed)
    return Estimate.of([draw.sum() for draw in draws])


def rademacher_products(objective, places, num_samples, seed):
    """Vectors whose sums over any of the places estimate a trace.

    That over the places of one layer is the trace of its block.
    """
    generator = np.random.default_rng(seed)
    for _ in range(num_samples):
        signs = generator.choice([-1.0, 1.0], objective.size) * places
        yield signs * objective.product(signs)


def scipy_linalg():
    """`scipy.sparse.linalg`, or an error that says how to get it."""
    try:
        import scipy.sparse.linalg
    except ImportError as error:
        raise ImportError(
            "Eigenvalues need scipy. Install it with "
            "`pip install keras-lwsam[analysis]`."
        ) from error
    return scipy.sparse.linalg
