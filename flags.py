"""How a setting is declared: a field of config.json and a flag of the command line, in one place."""

import argparse
import math
import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

TRAINING, TESTS = frozenset({"meta_train", "bench"}), frozenset({"meta_test", "collapse", "attack"})
LEARNING = TRAINING | TESTS | {"export"}  # the modes that make a learner; bench is bench.py


@dataclass(frozen=True)
class Setting:
    """One setting of a run, a learner, a perturbation or a dataset's maker.

    default: its value where it is not given; False: a flag without a value, which makes it True. help: what it is for;
    the default is shown behind it. read: from the flag's text to the value, argparse.ArgumentTypeError at a text that
    cannot be one. choices: the values that there are. metavar: what stands for the value in --help (None: what the
    reader says). nargs: argparse's. modes: those that
    use it; the others refuse it. free: where it may differ from the trained run's, of "test" and "resume". attribute:
    its name in an object that has it, where the flag's is taken.
    """

    default: object
    help: str
    read: Callable[[str], object] = str
    choices: Sequence[str] | None = None
    metavar: str | None = None
    nargs: str | None = None
    modes: Iterable[str] = LEARNING
    free: Iterable[str] = ()
    attribute: str | None = None

    def add(self, group: argparse._ActionsContainer, name: str) -> None:
        """Give the parser, or its group, the flag --name. What is not on the command line has no default there."""
        shown = "" if self.default is None or self.default is False else f" (default: {self.default})"
        if self.default is False:
            kind = {"action": "store_true"}
        else:
            metavar = self.metavar or getattr(self.read, "metavar", None)
            kind = {"type": self.read, "choices": self.choices, "metavar": metavar, "nargs": self.nargs}
        group.add_argument(f"--{name}", help=self.help + shown, default=argparse.SUPPRESS, **kind)

    def accepts(self, value: object) -> bool:
        """Is it a value that the flag could have given?"""
        if self.default is False:
            return isinstance(value, bool)
        if value == self.default and type(value) is type(self.default):
            return True
        if isinstance(value, tuple):
            value = list(value)
        text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
        try:
            return self.read(text) == value and (self.choices is None or value in self.choices)
        except argparse.ArgumentTypeError:
            return False


class Configured:
    """What has settings of its own: the class declares them, an instance has each as an attribute.

    TypeError at a setting that is not declared, ValueError at a value that its flag could not have.
    """

    settings: dict[str, Setting] = {}

    def __init__(self, **settings: object):
        if unknown := settings.keys() - self.settings.keys():
            raise TypeError(f"{type(self).__name__} has no setting {min(unknown)}")
        for name, declared in self.settings.items():
            value = settings.get(name, declared.default)
            if not declared.accepts(value):
                wanted = f"one of {', '.join(declared.choices)}" if declared.choices else declared.help
                raise ValueError(f"{name} is {value!r}, wanted {wanted}")
            setattr(self, declared.attribute or name, value)


def whole(least: int, most: int = 2**31 - 1) -> Callable[[str], int]:
    """A reader of whole numbers from `least` to `most`."""

    def read(text: str) -> int:
        if not re.fullmatch(r"-?\d+", text) or int(text) < least:
            raise argparse.ArgumentTypeError(f"must be a whole number of at least {least}, not {text!r}")
        if int(text) > most:
            raise argparse.ArgumentTypeError(f"must be a whole number of at most {most}, not {text!r}")
        return int(text)

    read.metavar = "N"
    return read


def to_number(text: str) -> float:
    """The number in this text; NaN, which is in no range, where it is none."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def positive(text: str) -> float:
    """A finite number above 0."""
    value = to_number(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"must be a number above 0, not {text!r}")
    return value


def not_negative(text: str) -> float:
    """A finite number of at least 0."""
    value = to_number(text)
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"must be a number of at least 0, not {text!r}")
    return value


def path_text(text: str) -> str:
    """Read a path as a text, and replace a ~ by the home folder, which shells do not do in --flag=~/x. An empty text,
    as an unset variable of the shell gives it, is refused: Path("") would be the current folder."""
    if not text:
        raise argparse.ArgumentTypeError("it is empty")
    return os.path.expanduser(text)


def to_path(text: str) -> Path:
    """A path, read as `path_text` reads it."""
    return Path(path_text(text))


positive.metavar = not_negative.metavar = "X"
