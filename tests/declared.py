"""The flags that the program declares, for tests that are derived from them."""

import argparse
from dataclasses import Field, fields

import main
from learners import classes_for
from training import config


def fields_of(mode: str) -> dict[str, Field]:
    """The fields of all flags of a mode, whichever learner and perturbation it has, by name."""
    entry = main.MODES[mode]
    found = [*fields(main.CommandSettings), *fields(entry.settings())]
    if entry.learner:
        kinds = [config.RunSettings, *[entry.training] * bool(entry.training), config.TestingSettings]
        of_run = [field for kind in kinds for field in fields(kind)]
        for owners in config.own_fields().values():
            of_run += [field for declared in reversed(owners.values()) for field in declared]
        found += [field for field in of_run if entry.training or not field.metadata["training_only"]]
    used = {field.name: field for field in found if field.name not in entry.without}
    return used | {field.name: field for field in fields(entry.settings())}


def own_settings(name: str, perturbation: str | None = None) -> dict[str, Field]:
    """The fields of a learner's own settings and of its perturbation's, by name."""
    return {field.name: field for kind in classes_for(name, perturbation) for field in fields(kind.settings_class)}


ALL = {name: field for mode in reversed(main.MODES) for name, field in fields_of(mode).items()}
TEXTS = ("2", "3", "17", "0.5", "0.25", "l2:0.5", "0.1,0.2,0.3", "0.5,0.2,0.3", "elsewhere", "http://127.0.0.1/x")


def other(field: Field) -> list:
    """The words behind the field's flag that give it another value than its default: none where it takes no value."""
    if field.default is False:
        return []
    for text in (*(field.metadata["choices"] or ()), *TEXTS):
        try:
            value = field.metadata["reader"](str(text))
        except argparse.ArgumentTypeError:
            continue
        if value != field.default and (not field.metadata["choices"] or value in field.metadata["choices"]):
            return [text]
    raise ValueError(f"no text gives --{field.name} another value: add one to TEXTS")


def value_of(field: Field):
    """The value that the words of `other` give."""
    words = other(field)
    value = field.metadata["reader"](str(words[0])) if words else True
    return [value] if field.metadata["nargs"] else value
