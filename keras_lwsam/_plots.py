"""Pictures, drawn with matplotlib where it is installed."""

import numpy as np


def figure(**kwargs):
    """A new figure that belongs to no window."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "Drawing needs matplotlib. Install it with "
            "`pip install keras-lwsam[plots]`."
        ) from error
    return Figure(layout="constrained", dpi=150, **kwargs)


def layer_norms(rows):
    """Heat map of gradient norms, layers by epochs, perturbed ones marked.

    Args:
        rows: `LayerNormTracker.history`, whole epochs only. Weight norms are
            drawn where there are no gradient norms.

    Returns:
        A matplotlib `Figure`.
    """
    if not rows:
        raise ValueError(
            "There is nothing to draw: no epoch has been recorded. Train with "
            "the tracker among the callbacks first."
        )
    layers = list(dict.fromkeys(row["layer"] for row in rows))
    epochs = sorted({row["epoch"] for row in rows})
    has_gradients = not all(np.isnan(row["gradient_norm"]) for row in rows)
    kind = "gradient" if has_gradients else "weight"
    norms = np.full((len(layers), len(epochs)), np.nan)
    drawn = figure(figsize=_size(layers, epochs))
    axes = drawn.add_subplot()
    for row in rows:
        y, x = layers.index(row["layer"]), epochs.index(row["epoch"])
        norms[y, x] = row[f"{kind}_norm"]
        if row["selected"]:
            # White on black is seen on every colour of the map.
            axes.plot(x, y, "o", ms=4, mfc="white", mec="black", mew=0.7)
    image = axes.imshow(
        np.ma.masked_invalid(norms),
        aspect="auto",
        cmap="cividis",
        norm="log" if (norms > 0.0).any() else "linear",
        interpolation="nearest",
    )
    drawn.colorbar(image, ax=axes, label=f"{kind} norm (L2, log scale)")
    every = max(1, len(epochs) // 10)
    axes.set_xticks(range(0, len(epochs), every))
    axes.set_xticklabels([epoch + 1 for epoch in epochs[::every]])
    axes.set_yticks(range(len(layers)))
    axes.set_yticklabels(layers, fontsize=7)
    axes.set_xlabel("epoch")
    axes.set_ylabel("layer (input side on top)")
    marked = " (dots: perturbed)" if any(r["selected"] for r in rows) else ""
    axes.set_title(f"{kind.capitalize()} norm of each layer{marked}")
    return drawn


def _size(layers, epochs):
    longest = max(len(layer) for layer in layers)
    width = 3.2 + 0.06 * longest + min(0.25 * len(epochs), 6.0)
    return width, max(2.5, 1.2 + 0.17 * len(layers))
