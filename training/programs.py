"""Compiled functions, shared by all objects of this process that compute the same."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Hashable

import numpy as np

import data
from model import Learner
from perturbations.base import Perturbation

PROGRAMS = collections.OrderedDict()  # compiled functions by key, in the order of their last use
REMEMBERED = 32  # compiled functions


def shared(make: Callable[[], object], *key: Hashable):
    """Return the remembered result of `make` for this key; call `make` if there is none."""
    program = PROGRAMS.pop(key, None) or make()
    PROGRAMS[key] = program
    if len(PROGRAMS) > REMEMBERED:
        PROGRAMS.popitem(last=False)
    return program


def frozen(value: object) -> Hashable:
    """Return a part of a key for a learner, split, array or list: two that compute the same have equal keys. Where an
    attribute has no hash, the object's identity is the key."""
    key = freeze(value)
    try:
        hash(key)
    except TypeError:
        return id(value), value
    return key


def freeze(value: object):
    if isinstance(value, Learner | Perturbation | data.Split):
        return type(value), *((name, freeze(member)) for name, member in sorted(vars(value).items()))
    if isinstance(value, np.ndarray):
        return value.shape, value.tobytes()
    return tuple(map(freeze, value)) if isinstance(value, list | tuple) else value


def without_pixels(split: data.Split) -> data.Split:
    """Return the split as a compiled function keeps it: without its pixels, which are an argument, but with their
    range."""
    return dataclasses.replace(split, pixels=None, declared=split.range)
