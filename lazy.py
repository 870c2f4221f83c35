"""TensorFlow, loaded when it is first used: a command that refuses its input does not spend seconds on it.

A module takes it with `from lazy import tf`, and has `from __future__ import annotations`, because evaluating an
annotation such as `tf.Tensor` would be a use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING


class Later:
    """A module that is imported when something of it is asked for."""

    def __init__(self, name: str):
        self.name = name

    def __getattr__(self, attribute: str):
        return getattr(importlib.import_module(self.name), attribute)


if TYPE_CHECKING:
    import tensorflow as tf
else:
    tf = Later("tensorflow")
