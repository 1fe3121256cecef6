"""Codebooks for `.sog`: 256 values for scalars, a palette of coefficient vectors."""

from __future__ import annotations

import numpy as np

_SCALAR_ROUNDS = 12
_VECTOR_ROUNDS = 6
# Enough points to place the palette; more change it little and cost their number times the palette's size.
_TRAINING_ROWS_PER_ENTRY = 8
_BLOCK = 4096


def scalar_codebook(values: np.ndarray, size: int = 256) -> tuple[np.ndarray, np.ndarray]:
    """Returns (codebook float32 [size] in ascending order, index uint8 of the nearest entry of each value).

    Lloyd's algorithm on sorted values, started from their quantiles and, where those crowd, from even steps.
    """
    flat = np.sort(values.reshape(-1).astype(np.float64))
    if len(flat) == 0:
        return np.zeros(size, np.float32), np.zeros(values.shape, np.uint8)
    distinct = np.unique(flat)
    if len(distinct) <= size:
        book = np.concatenate([distinct, np.full(size - len(distinct), distinct[-1])])
    else:
        half = size // 2
        quantiles = np.quantile(flat, (np.arange(size - half) + 0.5) / (size - half))
        book = np.sort(np.concatenate([quantiles, np.linspace(flat[0], flat[-1], half)]))
        sums = np.concatenate([[0.0], np.cumsum(flat)])
        for _ in range(_SCALAR_ROUNDS):
            edges = np.concatenate([[0], np.searchsorted(flat, (book[1:] + book[:-1]) / 2), [len(flat)]])
            held = np.diff(edges)
            means = np.diff(sums[edges]) / np.maximum(held, 1)
            book = np.sort(np.where(held > 0, means, book))
    book = book.astype(np.float32)
    middles = (book[1:] + book[:-1]) / 2
    return book, np.searchsorted(middles, values, side="left").astype(np.uint8)


def vector_palette(rows: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns (palette float32 [P, D], index of the nearest entry of each row [N]); P <= size.

    Rows that are few enough are the palette themselves. Otherwise k-means (Lloyd 1982) on a sample of the rows.
    """
    unique, index = np.unique(rows, axis=0, return_inverse=True)
    if len(unique) <= size:
        return unique.astype(np.float32), index.reshape(-1)
    rng = np.random.default_rng(0)
    sample = rows[rng.permutation(len(rows))[: size * _TRAINING_ROWS_PER_ENTRY]]
    palette = unique[rng.permutation(len(unique))[:size]].astype(np.float32)
    for _ in range(_VECTOR_ROUNDS):
        label = _nearest(sample, palette)
        held = np.bincount(label, minlength=size)
        order = np.argsort(label, kind="stable")
        starts = np.concatenate([[0], np.cumsum(held)[:-1]])
        full = held > 0
        sums = np.add.reduceat(sample[order].astype(np.float64), starts[full], axis=0)
        palette[full] = (sums / held[full, None]).astype(np.float32)
    return palette, _nearest(rows, palette)


def _nearest(rows: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """Returns the index of the palette entry nearest to each row, a block of rows at a time."""
    length = np.square(palette).sum(axis=1)
    label = np.empty(len(rows), np.int64)
    for start in range(0, len(rows), _BLOCK):
        part = rows[start : start + _BLOCK]
        label[start : start + _BLOCK] = (length - 2.0 * (part @ palette.T)).argmin(axis=1)
    return label
