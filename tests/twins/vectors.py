"""Arithmetic of vectors in float64; a division by zero gives zero."""

import numpy as np


def norm(vector):
    """L2 norm."""
    return float(np.sqrt(np.dot(vector, vector)))


def ratio(numerator, denominator):
    """Quotient of two numbers; zero where the denominator is zero."""
    return numerator / denominator if denominator != 0.0 else 0.0


def unit(vector):
    """The vector divided by its norm."""
    return ratio(1.0, norm(vector)) * vector


def perpendicular(vector, direction):
    """v - (<v, d> / norm(d)^2) d."""
    square = np.dot(direction, direction)
    return vector - ratio(np.dot(vector, direction), square) * direction
