"""Omniglot's original two sets of alphabets, background and evaluation."""

PARTS = {"images_background": 964, "images_evaluation": 659}  # official archive -> number of its characters
# The alphabets of images_evaluation; all others are in images_background.
EVALUATION = {
    "Angelic", "Atemayar_Qelisayer", "Atlantean", "Aurek-Besh", "Avesta", "Ge_ez", "Glagolitic", "Gurmukhi", "Kannada",
    "Keble", "Malayalam", "Manipuri", "Mongolian", "Old_Church_Slavonic_(Cyrillic)", "Oriya", "Sylheti",
    "Syriac_(Serto)", "Tengwar", "Tibetan", "ULOG",
}  # fmt: skip
