"""Range of a network's inputs. Attacks, pictures and exports work on images in [0, 1]; a dataset's inputs may have
another range."""

from __future__ import annotations

from typing import NamedTuple


class Range(NamedTuple):
    """Lowest and highest value that a pixel of the network's inputs can have."""

    low: float
    high: float

    def unit(self, x):
        """Convert inputs of the network to images in [0, 1]; arrays or tensors."""
        return x if self == UNIT else (x - self.low) / (self.high - self.low)

    def inputs(self, x):
        """Convert images in [0, 1] to inputs of the network."""
        return x if self == UNIT else self.low + (self.high - self.low) * x


UNIT = Range(0.0, 1.0)


def can_be_range(value: object) -> bool:
    """Return True if this value is a range as a manifest or a run may have it."""
    if not isinstance(value, list | tuple) or len(value) != 2:
        return False
    return all(type(end) in (int, float) and abs(end) < 1e38 for end in value) and value[0] < value[1]
