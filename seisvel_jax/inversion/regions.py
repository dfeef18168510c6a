"""A velocity model as a few regions of one value each: how layered models are found in nearly layered ones.

Numpy on the host, one model `[depth, x]` at a time.
"""

import numpy as np
from scipy import ndimage
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components


def segment(velocity: np.ndarray, *, contrast: float, least: int = 12) -> np.ndarray:
    """Labels `[depth, x]`, 0, 1, ...: connected regions whose neighbouring means differ by more than `contrast` m/s.

    Every cell starts as a region of its own. The two neighbours whose merging adds least to the sum of squares within
    regions are merged first (Ward 1963), until all neighbours differ by more than `contrast` in their means and every
    region has at least `least` cells; smaller ones go to the neighbour of the nearest mean.
    """
    values = np.asarray(velocity, np.float64)
    labels = _plateaus(values, contrast)
    while True:
        count = labels.max() + 1
        if count == 1:
            return labels
        sizes = np.bincount(labels.ravel(), minlength=count)
        means = np.bincount(labels.ravel(), values.ravel(), minlength=count) / sizes
        first, second = _neighbours(labels)
        gap = np.abs(means[first] - means[second])
        smaller = np.minimum(sizes[first], sizes[second])
        larger = np.maximum(sizes[first], sizes[second])
        mergeable = (gap <= contrast) | (smaller < least)
        if not mergeable.any():
            return _without_edges(values, labels)
        cost = np.where(mergeable, smaller * larger / (smaller + larger) * gap**2, np.inf)
        best = int(cost.argmin())
        labels = np.where(labels == second[best], first[best], labels)
        labels = np.unique(labels, return_inverse=True)[1].reshape(labels.shape)


def _plateaus(values: np.ndarray, contrast: float) -> np.ndarray:
    """Connected regions whose neighbouring cells differ by less than an eighth of the contrast; others are alone."""
    close = contrast / 8
    labels = np.arange(values.size).reshape(values.shape)
    down, across = np.abs(np.diff(values, axis=0)) < close, np.abs(np.diff(values, axis=1)) < close
    a = np.concatenate([labels[:-1][down], labels[:, :-1][across]])
    b = np.concatenate([labels[1:][down], labels[:, 1:][across]])
    graph = coo_matrix((np.ones(a.size), (a, b)), shape=(values.size, values.size))
    return connected_components(graph, directed=False)[1].reshape(values.shape)


def _without_edges(values: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Regions without an inner cell are soft edges: their cells go to the neighbour whose mean is nearest to theirs."""
    inner = np.zeros(labels.shape, bool)
    cross = ndimage.generate_binary_structure(2, 1)
    for one in range(labels.max() + 1):
        inner |= ndimage.binary_erosion(labels == one, cross, border_value=1)
    solid = np.isin(labels, labels[inner])
    if solid.all() or not solid.any():
        return labels
    means = np.asarray(ndimage.mean(values, labels, np.arange(labels.max() + 1)))
    result = labels.copy()
    while not solid.all():
        nearest, distance = result.copy(), np.full(values.shape, np.inf)
        for axis, step in ((0, 1), (0, -1), (1, 1), (1, -1)):
            label, there = np.roll(result, step, axis), np.roll(solid, step, axis)
            np.moveaxis(there, axis, 0)[0 if step == 1 else -1] = False  # nothing lies beyond the model
            off = np.where(there, np.abs(values - means[label]), np.inf)
            nearest, distance = np.where(off < distance, label, nearest), np.minimum(off, distance)
        reached = ~solid & (distance < np.inf)
        result = np.where(reached, nearest, result)
        solid |= reached
    return np.unique(result, return_inverse=True)[1].reshape(labels.shape)


def _neighbours(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of regions that touch, each once, the smaller label first."""
    a = np.concatenate([labels[:-1].ravel(), labels[:, :-1].ravel()])
    b = np.concatenate([labels[1:].ravel(), labels[:, 1:].ravel()])
    pairs = np.unique(np.stack([np.minimum(a, b), np.maximum(a, b)])[:, a != b], axis=1)
    return pairs[0], pairs[1]


def tied(velocity: np.ndarray, labels: np.ndarray, *, whole: bool = False) -> np.ndarray:
    """Each region at its median, rounded to whole m/s where asked; of the dtype of `velocity`."""
    count = labels.max() + 1
    medians = ndimage.median(np.asarray(velocity, np.float64), labels, np.arange(count))
    medians = np.round(medians) if whole else medians
    return np.asarray(medians)[labels].astype(velocity.dtype)
