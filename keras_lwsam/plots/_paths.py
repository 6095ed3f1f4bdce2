"""Marked places in a landscape."""

import numpy as np

from keras_lwsam.plots import _names, style


def mark(axes, x, y, labels, linestyle):
    """Marks points, with their labels where these do not cover each other.

    Args:
        axes: What to draw in; its limits and scales are set.
        x: Vector of the first coordinates.
        y: Vector of the second ones.
        labels: A string a point, or an empty tuple.
        linestyle: How the points are joined.
    """
    from matplotlib import patheffects

    if not len(x):
        return
    axes.plot(
        x,
        y,
        color=style.COLOURS[1],
        linestyle=linestyle,
        linewidth=1.0,
        marker="o",
        markersize=3.5,
        markeredgecolor="white",
        markeredgewidth=0.4,
        zorder=3,
    )
    axes.autoscale_view()
    pixels = axes.transData.transform(np.column_stack([x, y]))
    places = axes.transAxes.inverted().transform(pixels)
    labels = _names.shortened(labels, 24) if labels else []
    for i in _apart(places, [style.text_width(label) for label in labels]):
        right = places[i][0] > 0.6
        axes.annotate(
            _names.plain(labels[i]),
            (x[i], y[i]),
            xytext=(-4.0 if right else 4.0, 5.0),
            textcoords="offset points",
            ha="right" if right else "left",
            fontsize=style.SMALL,
            zorder=4,
            path_effects=[
                patheffects.withStroke(linewidth=2.0, foreground="white")
            ],
        )


def _apart(places, widths):
    """Indices of labels that have room: the last and the first one first."""
    # Of axes that are about two inches wide and high.
    widths, height, chosen = np.array(widths) / 2.0, 0.08, []
    indices = range(len(widths))
    for i in dict.fromkeys([*indices[-1:], *indices]):
        inside = (places[i] >= 0.0).all() and (places[i] <= 1.0).all()
        gaps = [np.abs(places[i] - places[j]) for j in chosen]
        if inside and all(
            gap[0] > max(widths[i], widths[j]) + 0.05 or gap[1] > height
            for gap, j in zip(gaps, chosen, strict=True)
        ):
            chosen.append(i)
    return chosen
