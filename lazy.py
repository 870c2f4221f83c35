"""TensorFlow, imported when it is first used: a command refuses wrong input without waiting seconds for it.

A module that has `from lazy import tf` also has `from __future__ import annotations`, because Python would import
TensorFlow to evaluate an annotation such as `tf.Tensor`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING


class LazyModule:
    """A module that is imported when one of its attributes is first used."""

    def __init__(self, name: str):
        self.name = name

    def __getattr__(self, attribute: str):
        return getattr(importlib.import_module(self.name), attribute)


if TYPE_CHECKING:
    import tensorflow as tf
else:
    tf = LazyModule("tensorflow")
