"""How a setting is declared, read and checked. A setting is a typed field of a frozen dataclass: a flag of the command
line, an attribute of the object that uses it, and, if it describes a run, an entry of config.json."""

from __future__ import annotations

import argparse
import dataclasses
import math
import os
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from errors import Parser

if TYPE_CHECKING:
    from typing import Self


def setting(
    default: Any,
    help: str,
    reader: Callable[[str], Any] = str,
    *,
    choices: Collection | None = None,
    metavar: str | None = None,
    nargs: str | None = None,
    alias: str | None = None,
    shorthand: tuple[str, str] | None = None,
    overridable_in: Collection[str] = (),
    reset_for_test: bool = False,
    training_only: bool = False,
) -> Any:
    """Declare a field of a Settings class.

    default: False declares a flag without a value, which sets True. help: the text of --help; the default is added.
    reader: turns the flag's text into the value, or raises argparse.ArgumentTypeError. metavar: stands for the value in
    --help (None: the reader's). nargs: argparse's. alias: another name of the flag. shorthand: another flag, without a
    value, and the value of this one that it stands for.
    Rules for a setting in config.json (training/config.py): overridable_in: where it may differ from the trained run:
    in a "test", in a "resume", or "at_any_way" (a test of a learner with `any_way`); reset_for_test: a test starts
    with the default, not with the run's value; training_only: no other mode uses it.
    """
    return dataclasses.field(default=default, metadata={k: v for k, v in locals().items() if k != "default"})


@dataclasses.dataclass(frozen=True)
class Settings:
    """The base class of all settings. It raises ValueError for a value that no flag could give, and turns a list into a
    tuple, a numpy scalar into a Python number, and a path into the text of its flag."""

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.metadata["reader"] is path_text and isinstance(value, str | Path) and str(value):
                value = path_text(str(value))
            elif callable(getattr(value, "item", None)) and getattr(value, "shape", None) == ():
                value = value.item()  # a number of numpy's, which JSON does not know
            elif isinstance(value, list):
                value = tuple(value)
            object.__setattr__(self, field.name, value)
            if not accepts(field, value):
                choices = field.metadata["choices"]
                wanted = f"one of {', '.join(map(str, choices))}" if choices else field.metadata["help"]
                raise ValueError(f"{field.name} cannot be {short(value)} ({wanted})")

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """Make an instance: each field gets its value from `values`, or its default."""
        return cls(**{field.name: values[field.name] for field in dataclasses.fields(cls) if field.name in values})

    def idle(self) -> set[str]:
        """Return the names of the settings that have no effect with the values of the other settings."""
        return set()

    def values(self) -> dict[str, Any]:
        """The settings by name, with tuples as the lists that JSON has."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def short(value: object) -> str:
    """The value as Python writes it, cut to 80 characters."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def accepts(field: dataclasses.Field, value: object) -> bool:
    """True if the field's flag could have given this value."""
    if field.default is False:
        return isinstance(value, bool)
    if type(value) is type(field.default) and value == field.default:  # an array cannot be compared with a number
        return True
    if field.metadata["nargs"]:
        return isinstance(value, list | tuple) and bool(value) and all(can_read(field, one) for one in value)
    return can_read(field, value)


def can_read(field: dataclasses.Field, value: object) -> bool:
    """True if the field's reader returns this value for its text; a list is written with commas."""
    value = list(value) if isinstance(value, tuple) else value
    text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
    text = f"./{text}" if isinstance(value, Path) and text.startswith("~") else text  # of a folder with that name
    choices = field.metadata["choices"]
    try:
        return field.metadata["reader"](text) == value and (choices is None or value in choices)
    except (argparse.ArgumentTypeError, ValueError):
        return False


class CommandLine(Parser):
    """A parser with a flag for each field of Settings classes. place: the name of the command in messages."""

    def __init__(self, place: str, prog: str, description: str = "", epilog: str = "", **kwargs):
        super().__init__(
            prog=prog, description=description, epilog=epilog, argument_default=argparse.SUPPRESS, **kwargs
        )
        self.place, self.shorthands = place, {}

    def add(
        self,
        title: str,
        fields: Iterable[dataclasses.Field],
        of_run: Collection[str] = (),
        defaults: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        """Add a flag for each field, in a group of --help. of_run: the places (`setting`) where flags override a
        trained run's settings; --help then hides the flags that may not differ from the run there, and the defaults
        that the run replaces. defaults: the defaults that --help shows in place of the fields'."""
        group = self.add_argument_group(title.rstrip("."))
        for field in fields:
            rules, default = field.metadata, defaults.get(field.name, field.default)
            has_default = default is not None and default is not False and (rules["reset_for_test"] or not of_run)
            shown = ",".join(map(str, default)) if isinstance(default, tuple) else default
            text = rules["help"] + f" (default: {shown})" * has_default
            if of_run and not set(of_run) & set(rules["overridable_in"]):
                text = argparse.SUPPRESS
            if default is False:
                kind = {"action": "store_true"}
            else:
                metavar = rules["metavar"] or getattr(rules["reader"], "metavar", None)
                kind = {"type": rules["reader"], "metavar": metavar} | {k: rules[k] for k in ("choices", "nargs")}
                if rules["nargs"] and rules["reader"] in (path_text, to_path):
                    kind["action"] = "extend"  # a repeated flag adds folders or files
            names = [f"--{name}" for name in (field.name, rules["alias"]) if name]
            group.add_argument(*names, dest=field.name, help=text, **kind)
            if rules["shorthand"]:
                flag, value = rules["shorthand"]
                self.shorthands[flag] = field.name, value
                text = text if text == argparse.SUPPRESS else f"the same as --{field.name} {value}"
                group.add_argument(f"--{flag}", action="store_true", help=text)

    def read(self, argv: list[str] | None = None, all_known: bool = True) -> dict[str, Any]:
        """Return the flags of the command line, by name. Exit with one sentence and code 2 if two flags contradict each
        other or, with `all_known`, if a flag was not declared by `add`."""
        known, unknown = self.parse_known_args(argv)
        flags = vars(known)
        for name, value in flags.items():
            if value in ([], "--", ["--"]):  # argparse's values of --flag=--, in older and newer versions
                self.error(f"argument --{name}: it is empty")
            if isinstance(value, list):  # argparse takes an unknown --flag=a b, with a space, for another value
                unknown += [str(one) for one in value if str(one).startswith("--")]
        if unknown and all_known:
            word = unknown[0].partition("=")[0]
            if not word.startswith("--"):
                self.error(f"{word!r} belongs to no flag: write --NAME {word}, for example --savedir D or --mode MODE")
            self.error(f"{word} is not a flag of {self.place}: leave it out")
        for flag in self.shorthands.keys() & flags.keys():
            del flags[flag]
            name, value = self.shorthands[flag]
            if flags.setdefault(name, value) != value:
                self.error(f"--{flag} contradicts --{name} {flags[name]}: give one of them")
        return flags


def by_owners(
    owners: Mapping[str, Iterable[dataclasses.Field]], of_run: bool = False
) -> dict[tuple[str, ...], list[dataclasses.Field]]:
    """Group the owners' fields by the names of all owners that have them, for --help. If fields have the same name,
    take the first one; if their defaults differ, its help lists them, unless `of_run`: the run has the values."""
    by_name = {}
    for owner, declared in owners.items():
        for field in declared:
            by_name.setdefault(field.name, {})[owner] = field
    groups = {}
    for name, declared in by_name.items():
        field, defaults = next(iter(declared.values())), {owner: one.default for owner, one in declared.items()}
        if any(default != field.default for default in defaults.values()):
            text = ", ".join(f"{default} for {owner}" for owner, default in defaults.items())
            metadata = field.metadata | {"help": field.metadata["help"] + f" (default: {text})" * (not of_run)}
            field = dataclasses.field(default=None, metadata=metadata)
            field.name = name
        groups.setdefault(tuple(declared), []).append(field)
    return groups


# ---- readers: from a flag's text to its value

LARGEST = 3.4e38  # larger numbers are infinite in float32
SMALLEST = 1.2e-38  # smaller ones are 0, or lose digits


def whole(least: int, most: int = 2**31 - 1) -> Callable[[str], int]:
    """Return a reader of whole numbers from `least` to `most`."""

    def read(text: str) -> int:
        if not re.fullmatch(r"-?[0-9]{1,30}", text) or int(text) < least:
            raise argparse.ArgumentTypeError(f"must be a whole number of at least {least}, not {short(text)}")
        if int(text) > most:
            raise argparse.ArgumentTypeError(f"must be a whole number of at most {most}, not {text!r}")
        return int(text)

    read.metavar = "N"
    return read


def to_number(text: str) -> float:
    """Read a number; return NaN, which is in no range, if the text is not a number."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def positive(text: str) -> float:
    """Read a number above 0 that float32 can hold."""
    value = to_number(text)
    if not SMALLEST <= value < LARGEST:
        raise argparse.ArgumentTypeError(
            f"must be a number above 0 (at least {SMALLEST:g}) and below {LARGEST:g}, not {short(text)}"
        )
    return value


def not_negative(text: str) -> float:
    """Read a number of at least 0 that float32 can hold."""
    value = to_number(text)
    if not 0 <= value < LARGEST:
        raise argparse.ArgumentTypeError(f"must be a number of at least 0 and below {LARGEST:g}, not {short(text)}")
    return value


def path_text(text: str) -> str:
    """Read a path as a text, and replace a ~ by the home folder, which shells do not do in --flag=~/x. An empty text,
    as an unset variable of the shell gives it, is refused: Path("") would be the current folder."""
    if not text:
        raise argparse.ArgumentTypeError("it is empty")
    return os.path.expanduser(text)


def to_path(text: str) -> Path:
    """Read a path as `path_text` does."""
    return Path(path_text(text))


def folder_name(text: str) -> str:
    """Read a dataset's name."""
    if not text or Path(text).name != text or text.startswith("."):
        raise argparse.ArgumentTypeError(f"must be a dataset's name, the folder's below --data_dir, not {text!r}")
    return text


positive.metavar = not_negative.metavar = "X"
