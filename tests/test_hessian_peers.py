"""Curvature in PyTorch, beside ours.

Run with `pytest -m peers` after `pip install -e ".[peers]"`. The network, its
weights and the data are the same on both sides; in PyTorch a library computes,
or `torch.func` over a few lines that say what the Keras layers do.
"""

import sys

import keras
import numpy as np
import pytest
from keras import layers

from keras_lwsam import analysis
from tests.support import cross_entropy
from tests.test_peers import installed

pytestmark = [
    pytest.mark.peers,
    # PyHessian keeps the graph of its gradients.
    pytest.mark.filterwarnings("ignore:Using backward.. with create_graph"),
    # PyTorch's of itself, and where there is no GPU.
    pytest.mark.filterwarnings("ignore:.torch.jit.script"),
    pytest.mark.filterwarnings("ignore:CUDA initialization"),
]


@pytest.fixture(autouse=True, scope="module")
def _without_triton():
    """`torch.func` imports it, and its LLVM ends a process of TensorFlow's."""
    with pytest.MonkeyPatch.context() as patch:
        if "triton" not in sys.modules:
            patch.setitem(sys.modules, "triton", None)
        yield


RNG = np.random.default_rng(0)
IMAGES = RNG.normal(size=(24, 5, 5, 2)).astype("float32")
SEQUENCES = RNG.normal(size=(12, 6, 4)).astype("float32")
LABELS = np.arange(24) % 3


def objective_of(network, x, epochs=30):
    """What is looked at: a network after some training."""
    network.compile(keras.optimizers.SGD(0.1, 0.9), cross_entropy())
    network.fit(x, LABELS[: len(x)], epochs=epochs, verbose=0)
    return analysis.Objective(network, x, LABELS[: len(x)], batch_size=9)


def direction(objective, seed=1):
    vector = np.random.default_rng(seed).normal(size=objective.size)
    return vector / np.linalg.norm(vector)


def split(objective, vector):
    """A vector as arrays of the shapes of the weights."""
    ends = np.cumsum([np.prod(v.shape) for v in objective.perturbed])
    parts = np.split(np.asarray(vector), ends.astype(int)[:-1])
    return [
        part.reshape(v.shape)
        for part, v in zip(parts, objective.perturbed, strict=True)
    ]


# --- A convolutional network -----------------------------------------------


def convolutions():
    """Ours. The moving statistics are those of the training."""
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((5, 5, 2)),
            layers.Conv2D(4, 3, name="conv"),
            layers.BatchNormalization(momentum=0.5, name="norm"),
            layers.Activation("tanh"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(3, name="logits"),
        ]
    )


def as_in_torch(arrays):
    """Kernels with the axes of PyTorch."""
    axes = {1: (0,), 2: (1, 0), 4: (3, 2, 0, 1)}
    torch = installed("torch")
    return [
        torch.from_numpy(
            np.ascontiguousarray(
                np.asarray(a, "float32").transpose(axes[np.ndim(a)])
            )
        )
        for a in arrays
    ]


def as_in_keras(tensors):
    """One vector, in our order, of tensors like the parameters."""
    axes = {1: (0,), 2: (1, 0), 4: (2, 3, 1, 0)}
    arrays = [t.detach().numpy() for t in tensors]
    return np.concatenate(
        [a.transpose(axes[a.ndim]).reshape(-1) for a in arrays]
    )


def torch_convolutions(network):
    """Theirs, with our weights and moving statistics."""
    torch = installed("torch")
    norm = torch.nn.BatchNorm2d(4, eps=network.get_layer("norm").epsilon)
    theirs = torch.nn.Sequential(
        torch.nn.Conv2d(2, 4, 3),
        norm,
        torch.nn.Tanh(),
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(),
        torch.nn.Linear(4, 3),
    ).eval()
    weights = as_in_torch([np.array(v) for v in network.trainable_variables])
    mean, variance = as_in_torch(network.get_layer("norm").get_weights()[2:])
    with torch.no_grad():
        for ours, parameter in zip(weights, theirs.parameters(), strict=True):
            parameter.copy_(ours)
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(variance)
    return theirs


@pytest.fixture(scope="module")
def pair():
    """Our objective, their network and their data."""
    torch = installed("torch")
    network = convolutions()
    objective = objective_of(network, IMAGES)
    x = torch.from_numpy(IMAGES.transpose(0, 3, 1, 2).copy())
    y = torch.from_numpy(LABELS).long()
    theirs = torch_convolutions(network)
    loss = torch.nn.functional.cross_entropy(theirs(x), y)
    assert float(loss.detach()) == pytest.approx(objective.loss(), rel=1e-5)
    return objective, theirs, x, y


def hessian_of(theirs, x, y):
    """The operator of curvlinops, over two batches."""
    torch = installed("torch")
    return installed("curvlinops").HessianLinearOperator(
        theirs,
        torch.nn.CrossEntropyLoss(),
        list(theirs.parameters()),
        [(x[:15], y[:15]), (x[15:], y[15:])],
        check_deterministic=False,
    )


def test_curvlinops_products(pair):
    objective, theirs, x, y = pair
    operator = hessian_of(theirs, x, y)
    for seed in range(3):
        vector = direction(objective, seed)
        expected = as_in_keras(operator @ as_in_torch(split(objective, vector)))
        error = np.linalg.norm(objective.product(vector) - expected)
        assert error < 1e-4 * np.linalg.norm(expected)


def test_curvlinops_eigenvalues_and_trace(pair):
    objective, theirs, x, y = pair
    torch = installed("torch")
    operator = hessian_of(theirs, x, y)
    matrix = (operator @ torch.eye(objective.size)).detach().numpy()
    matrix = (matrix + matrix.T) / 2.0
    np.testing.assert_allclose(
        analysis.hessian_eigenvalues(objective, k=3),
        np.linalg.eigvalsh(matrix.astype("float64"))[::-1][:3],
        rtol=1e-3,
    )
    found = analysis.hessian_trace(objective, num_samples=100)
    assert abs(found.mean - np.trace(matrix)) < 4.0 * found.error


def test_pyhessian_eigenvalues_and_trace(pair):
    """Theirs are the largest in size, which are positive here."""
    objective, theirs, x, y = pair
    torch = installed("torch")
    torch.manual_seed(0)
    peer = installed("pyhessian").hessian(
        theirs, torch.nn.functional.cross_entropy, data=(x, y), cuda=False
    )
    values, vectors = peer.eigenvalues(maxIter=2000, tol=1e-7, top_n=3)
    found = analysis.hessian_eigenvalues(objective, k=3)
    np.testing.assert_allclose(found, values, rtol=1e-3)
    # Their eigenvectors are such for our products too.
    for value, tensors in zip(values, vectors, strict=True):
        vector = as_in_keras(tensors)
        error = np.linalg.norm(objective.product(vector) - value * vector)
        assert error < 2e-2 * value
    draws = peer.trace(maxIter=300, tol=0.0)
    spread = np.std(draws, ddof=1) / np.sqrt(len(draws))
    ours = analysis.hessian_trace(objective, num_samples=300)
    assert abs(ours.mean - np.mean(draws)) < 4.0 * np.hypot(ours.error, spread)


# --- Sequences, by torch.func ----------------------------------------------


def attention():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6, 4))
    x = layers.MultiHeadAttention(2, 3)(inputs, inputs)
    x = layers.LayerNormalization()(x + inputs)
    x = layers.GlobalAveragePooling1D()(x)
    return keras.Model(inputs, layers.Dense(3)(x))


def torch_attention(p, x):
    """The same in PyTorch, of a dict of weights by layer and name."""
    torch = installed("torch")

    def heads(name):
        kernel, bias = p[f"{name}/kernel"], p[f"{name}/bias"]
        return torch.einsum("btd,dhk->bhtk", x, kernel) + bias[:, None]

    scores = heads("query") @ heads("key").transpose(-1, -2) / np.sqrt(3.0)
    mixed = torch.softmax(scores, dim=-1) @ heads("value")
    kernel = p["attention_output/kernel"]
    x = x + torch.einsum("bhtk,hkd->btd", mixed, kernel)
    x = x + p["attention_output/bias"]
    x = torch.nn.functional.layer_norm(
        x,
        (4,),
        p["layer_normalization/gamma"],
        p["layer_normalization/beta"],
        eps=1e-3,
    )
    return x.mean(dim=1) @ p["dense/kernel"] + p["dense/bias"]


def lstm():
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [keras.Input((6, 4)), layers.LSTM(5), layers.Dense(3)]
    )


def torch_lstm(p, x):
    torch = installed("torch")
    hidden = cell = torch.zeros((len(x), 5))
    for t in range(x.shape[1]):
        sums = x[:, t] @ p["lstm_cell/kernel"] + p["lstm_cell/bias"]
        sums = sums + hidden @ p["lstm_cell/recurrent_kernel"]
        i, f, c, o = torch.chunk(sums, 4, dim=1)
        cell = torch.sigmoid(f) * cell + torch.sigmoid(i) * torch.tanh(c)
        hidden = torch.sigmoid(o) * torch.tanh(cell)
    return hidden @ p["dense/kernel"] + p["dense/bias"]


@pytest.mark.parametrize(
    ("make", "theirs"), [(attention, torch_attention), (lstm, torch_lstm)]
)
def test_products_of_torch_func(make, theirs):
    torch = installed("torch")
    keras.utils.clear_session()
    objective = objective_of(make(), SEQUENCES, epochs=10)
    names = ["/".join(v.path.split("/")[-2:]) for v in objective.perturbed]
    assert len(set(names)) == len(names)
    x = torch.from_numpy(SEQUENCES)
    y = torch.from_numpy(LABELS[: len(x)]).long()

    def loss(tensors):
        logits = theirs(dict(zip(names, tensors, strict=True)), x)
        return torch.nn.functional.cross_entropy(logits, y)

    def tensors_of(arrays):
        return [torch.from_numpy(np.array(a, "float32")) for a in arrays]

    def vector_of(tensors):
        return np.concatenate([t.detach().numpy().ravel() for t in tensors])

    weights = tensors_of(objective.perturbed)
    assert float(loss(weights)) == pytest.approx(objective.loss(), rel=1e-5)
    gradient = torch.func.grad(loss)
    np.testing.assert_allclose(
        objective.gradient(), vector_of(gradient(weights)), atol=1e-5
    )
    for seed in range(3):
        vector = direction(objective, seed)
        _, product = torch.func.jvp(
            gradient, (weights,), (tensors_of(split(objective, vector)),)
        )
        expected = vector_of(product)
        error = np.linalg.norm(objective.product(vector) - expected)
        assert error < 1e-4 * np.linalg.norm(expected)
