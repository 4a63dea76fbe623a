"""Which fitted pictures one is most like."""

import numpy as np

_BLOCK = 256


def most_similar(items: np.ndarray, known: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The nearest by the cosine of items less the mean of the known ones.

    Args:
      items: `[n, ...]`, features or pictures of 8 bits.
      known: `[m, ...]`.
      count: how many for each; all where there are fewer.

    Returns:
      `[n, k]` rows of `known`, best first, of equal ones the first; and the `[n, k]` cosines.
    """
    centre = known.reshape(len(known), -1).mean(axis=0, dtype=np.float32)
    directions = _directions(known, centre)
    rows, cosines = [], []
    for start in range(0, len(items), _BLOCK):
        found = _directions(items[start : start + _BLOCK], centre) @ directions.T
        best = np.argsort(-found, axis=1, kind="stable")[:, :count]
        rows.append(best)
        cosines.append(np.take_along_axis(found, best, axis=1))
    return np.concatenate(rows), np.clip(np.concatenate(cosines), -1, 1)


def _directions(items: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """`[n, features]` of length 1, or 0 of what is the centre."""
    apart = items.reshape(len(items), -1).astype(np.float32) - centre
    lengths = np.linalg.norm(apart, axis=1, keepdims=True)
    return apart / np.where(lengths > 0, lengths, 1)
