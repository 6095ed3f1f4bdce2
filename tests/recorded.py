"""Rows as the trackers record them, and directories of runs, made up."""

import csv
import json

import numpy as np

from keras_lwsam.analysis.landscape import Landscape
from keras_lwsam.plots import Run

LAYERS = ("net/conv1", "net/norm1", "net/conv2", "net/logits")

FILES = {
    "history": "history.csv",
    "layer_norms": "layer_norms.csv",
    "layer_norms_model": "layer_norms_model.csv",
    "sharpness_layers": "sharpness_layers.csv",
    "sharpness": "sharpness.csv",
}


def layer_norms(layers=LAYERS, epochs=3, batches=(None,), seed=0, **known):
    """`LayerNormTracker.history`; the last layer is perturbed."""
    numbers = np.random.default_rng(seed)
    rows = []
    for epoch in range(epochs):
        for batch in batches:
            for layer in layers:
                norm = float(np.exp(2.0 * numbers.normal()))
                selected = layer == layers[-1]
                row = {
                    "epoch": epoch,
                    "batch": batch,
                    "layer": layer,
                    "gradient_norm": norm,
                    "weight_norm": 5.0 + norm / 10.0,
                    "update_norm": norm / 10.0,
                    "update_ratio": norm / 50.0,
                    "perturbation_norm": 0.05 * selected,
                    "cosine": 0.9 if selected else np.nan,
                    "selected": selected,
                }
                rows.append(row | known)
    return rows


def model_norms(epochs=3, seed=0):
    """`LayerNormTracker.model_history`."""
    rows = layer_norms(("all",), epochs, seed=seed)
    return [
        {k: v for k, v in row.items() if k not in ("layer", "selected")}
        for row in rows
    ]


def layer_sharpness(layers=LAYERS, epochs=3, eigenvalues=2, seed=0):
    """`SharpnessTracker.layer_history`, from before training on."""
    numbers = np.random.default_rng(seed)
    return [
        {
            "epoch": epoch,
            "layer": layer,
            "sharpness": 0.1 * numbers.random(),
            "average_sharpness": 0.01 * numbers.random(),
            "average_sharpness_error": 0.001,
            "trace": 20.0 * numbers.random() - 2.0,
            "trace_error": 1.5,
            **{
                f"eigenvalue_{rank}": 8.0 / rank + numbers.random()
                for rank in range(1, eigenvalues + 1)
            },
        }
        for epoch in range(-1, epochs)
        for layer in layers
    ]


def sharpness(epochs=3, eigenvalues=2, seed=0):
    """`SharpnessTracker.history`."""
    rows = layer_sharpness(("all",), epochs, eigenvalues, seed)
    return [
        {k: v for k, v in row.items() if k != "layer"} | {"loss": 2.0}
        for row in rows
    ]


def history(epochs=3):
    """What `keras.callbacks.CSVLogger` writes."""
    return [
        {
            "epoch": epoch,
            "accuracy": 1.0 - 0.5 / (1 + epoch),
            "loss": 2.0 / (1 + epoch),
            "val_accuracy": 0.9 - 0.5 / (1 + epoch),
            "val_loss": 2.5 / (1 + epoch),
        }
        for epoch in range(epochs)
    ]


def line():
    """A landscape along one direction, infinite at one end."""
    x = np.linspace(-1.0, 1.0, 11)
    losses = np.where(x > 0.9, np.inf, 1.0 + x**2)
    return Landscape(
        losses,
        (x,),
        ("random direction",),
        path=[[0.0]],
        path_labels=("trained",),
        name="Along a line",
    )


def plane(losses=None):
    """A landscape over two directions with the course of training."""
    x, y = np.linspace(-2.0, 2.0, 9), np.linspace(-1.0, 1.0, 7)
    bowl = 1.0 + x[:, None] ** 2 + 3.0 * y**2
    return Landscape(
        bowl if losses is None else losses,
        (x, y),
        ("component 1", "component 2"),
        path=[[-1.5, 0.8], [-0.5, 0.2], [0.0, 0.0]],
        path_labels=("start", "epoch 1", "end"),
        explained=(0.8, 0.15),
        name="Over a plane",
    )


def only(rows, *columns):
    """The rows with fewer columns, which take fewer pictures."""
    kept = {"epoch", "layer", *columns}
    return [{k: v for k, v in row.items() if k in kept} for row in rows]


def run(name="SAM", seed=0, layers=LAYERS):
    """A run with every part."""
    return Run(
        name,
        {"name": name, "method": {"rho": 0.05}, "layers": ["a", "b"]},
        history(),
        layer_norms(layers, seed=seed),
        model_norms(seed=seed),
        sharpness(seed=seed),
        layer_sharpness(layers, seed=seed),
        {"line": line(), "plane": plane()},
    )


def write(folder, run):
    """Writes a run as training leaves it. Returns the directory."""
    folder.mkdir(parents=True, exist_ok=True)
    if run.configuration:
        text = json.dumps(run.configuration)
        (folder / "run.json").write_text(text)
    for attribute, file in FILES.items():
        rows = getattr(run, attribute)
        if rows:
            with open(folder / file, "w", newline="") as table:
                writer = csv.DictWriter(table, rows[0])
                writer.writeheader()
                writer.writerows(rows)
    for name, landscape in run.landscapes.items():
        landscape.save(folder / f"{name}.npz")
    return folder
