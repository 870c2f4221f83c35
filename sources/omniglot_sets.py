"""Omniglot's original two sets, background and evaluation, by the names of its characters."""

from errors import UserError
from sources.arrays import Names

PARTS = {"images_background": 964, "images_evaluation": 659}  # official archive -> number of its characters
# The alphabets of images_evaluation; all others are in images_background.
EVALUATION = {
    "Angelic", "Atemayar_Qelisayer", "Atlantean", "Aurek-Besh", "Avesta", "Ge_ez", "Glagolitic", "Gurmukhi", "Kannada",
    "Keble", "Malayalam", "Manipuri", "Mongolian", "Old_Church_Slavonic_(Cyrillic)", "Oriya", "Sylheti",
    "Syriac_(Serto)", "Tengwar", "Tibetan", "ULOG",
}  # fmt: skip


def background_and_evaluation(names: Names, where: str) -> dict[str, list[tuple[str, int]]]:
    """Return Omniglot's original two sets, "train" (background) and "test" (evaluation): the places (split, number) of
    their characters in the order of their names.

    names: by split, the characters as alphabet/characterNN. UserError if some are missing in `where`.
    """
    places = {name: (split, number) for split, characters in names.items() for number, name in enumerate(characters)}
    sets = {"train": [], "test": []}
    for name in sorted(places):
        sets["test" if name.split("/")[0] in EVALUATION else "train"].append(places[name])
    if [len(characters) for characters in sets.values()] != list(PARTS.values()):
        raise UserError(
            f"{where} is not the whole of Omniglot from its originals: --split background needs that, see "
            f"get_data.py --help"
        )
    return sets
