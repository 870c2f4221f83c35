"""Folders of pictures: the classes in a folder and the files of each, or all files below a folder.

Links are followed, every folder is entered once, whatever leads to it, and only regular files are listed. What systems
leave in people's folders is no class and no picture.
"""

from __future__ import annotations

import os
import re
import unicodedata
from fnmatch import translate
from pathlib import Path

from errors import UserError
from sources.pictures import is_picture, listed, note_on_others

# What file managers, archivers, file systems, network drives and tools leave in folders; patterns, in small letters.
SYSTEM = (
    ".*", "__macosx", "icon\r", "thumbs.db", "ehthumbs*.db", "desktop.ini", "$recycle.bin", "recycler",
    "system volume information", "lost+found", "@eadir", "@tmp", "#recycle", "#snapshot", "@recycle",
    "@recently-snapshot", "__pycache__",
)  # fmt: skip
MATCHES_SYSTEM = re.compile("|".join(map(translate, SYSTEM)))
INNER = "images"  # the one folder that may lie between a class and its pictures, as in Tiny ImageNet

LEFT = "files and folders that systems leave behind"
SPECIAL = "pipes, devices and other special files"
AGAIN = "links to folders that are read already"
BESIDE = f"files beside the folder {INNER} of a class"


class Walk:
    """One walk through folders. It remembers the folders that it has entered, and what it has skipped."""

    def __init__(self) -> None:
        self._entered: set[tuple[int, int]] = set()  # device and inode
        self._skipped: dict[str, dict[Path, None]] = {}  # why -> what, in order
        self._others: dict[Path, None] = {}  # files that are no pictures

    def entries(self, folder: Path) -> tuple[list[Path], list[Path]]:
        """The folders and the files in a folder, by name. A link to nowhere counts as a file: its reader refuses it."""
        folders, files = [], []
        for path in sorted(folder.iterdir(), key=lambda path: path.name):
            if is_systems(path.name):
                self._skip(LEFT, path)
            elif os.path.isdir(path):
                folders.append(path)
            elif os.path.isfile(path) or not os.path.exists(path):
                files.append(path)
            else:
                self._skip(SPECIAL, path)
        return folders, files

    def enter(self, folders: list[Path]) -> list[Path]:
        """Return the folders that were not entered yet, by name; of a folder and a link to it, the folder."""
        new = []
        for folder in sorted(folders, key=lambda path: (path.is_symlink(), path)):
            stat = folder.stat()
            if (place := (stat.st_dev, stat.st_ino)) in self._entered:
                self._skip(AGAIN, folder)
            else:
                self._entered.add(place)
                new.append(folder)
        return sorted(new)

    def pictures(self, files: list[Path]) -> list[Path]:
        """Return the files that are pictures, and remember the others."""
        kinds = {file: is_picture(file) for file in files}
        self._others |= {file: None for file, is_one in kinds.items() if not is_one}
        return [file for file, is_one in kinds.items() if is_one]

    def pictures_below(self, folder: Path) -> list[Path]:
        """All pictures in a folder and in those below it, by name."""
        files, folders, links = [], [folder], []
        while folders or links:  # links last: a folder has its own name, and not that of a link to it
            for place in self.enter([folders.pop() if folders else links.pop(0)]):
                inner, own = self.entries(place)
                files += self.pictures(own)
                for path in inner:
                    (links if path.is_symlink() else folders).append(path)
        return sorted(files)

    def files_by_class(self, folder: Path, wanted: str | None = None) -> list[tuple[str, Path]]:
        """(class, file) of all pictures in FOLDER/class/ or FOLDER/class/images/, by name. wanted: the layouts that
        messages name.

        UserError where a picture lies elsewhere, where a class has no picture, and where two classes have one name.
        """
        wanted = f"wanted is {wanted or f'{folder}/CLASS/*.jpg'}"
        places, files = self.entries(folder)
        if stray := [file for file in files if is_picture(file)]:
            remedy = (
                "put it into one, or elsewhere"
                if places
                else f"give the folder that holds {folder}, if {folder} is a class"
            )
            raise UserError(f"{stray[0]} is in no folder of a class: {remedy}; {wanted}")
        self.enter([folder])
        labelled, names = [], {}
        for place in self.enter(places):
            if (twin := names.setdefault(same_name(place.name), place)) != place:
                raise UserError(
                    f"{twin} and {place} have the same name, with accents encoded in two ways: put their files into "
                    f"one of them"
                )
            deeper, files = self.entries(place)
            deeper = self.enter(deeper)
            if is_inner(deeper) and not any(map(is_picture, files)):
                for file in files:
                    self._skip(BESIDE, file)
                deeper, files = self.entries(deeper[0])
                deeper = self.enter(deeper)
            if deeper:
                raise UserError(
                    f"{deeper[0]} is a folder in {place}, which is taken for a class: {wanted}; if {place} holds "
                    f"classes, give that folder, otherwise move {deeper[0].name} elsewhere"
                )
            files = self.pictures(files)
            if not files:
                raise UserError(f"{place} holds no picture: put some into it, or take it away")
            labelled += [(place.name, file) for file in files]
        if not labelled:
            raise UserError(f"{folder} holds no folder with images: give a folder that holds one for each class")
        return labelled

    def notes(self) -> list[str]:
        """Return a note for each reason for which something was skipped."""
        notes = [f"note: skipped {why}: {listed(list(paths))}" for why, paths in self._skipped.items()]
        return notes + ([note_on_others(list(self._others))] if self._others else [])

    def _skip(self, why: str, path: Path) -> None:
        self._skipped.setdefault(why, {})[path] = None


def is_systems(name: str) -> bool:
    """True if a system leaves files or folders of this name."""
    return bool(MATCHES_SYSTEM.match(name.lower()))


def is_inner(folders: list[Path]) -> bool:
    """True if the only folder is one that may lie between a class and its pictures."""
    return [folder.name.lower() for folder in folders] == [INNER]


def same_name(name: str) -> str:
    """Spell a name in one way, however its accents are encoded: systems differ in this."""
    return unicodedata.normalize("NFC", name)
