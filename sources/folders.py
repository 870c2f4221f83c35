"""Walk through folders of pictures: list the classes in a folder and their files, or all files below a folder.

Links are followed, each folder is entered once however many paths lead to it, and only regular files are listed. Files
and folders that operating systems create are skipped.
"""

from __future__ import annotations

import os
import re
import unicodedata
from fnmatch import translate
from pathlib import Path

from errors import UserError
from sources.pictures import first_few, is_picture, note_on_others

# What file managers, archivers, file systems, network drives and tools leave in folders; patterns, in small letters.
SYSTEM = (
    ".*", "__macosx", "icon\r", "thumbs.db", "ehthumbs*.db", "desktop.ini", "$recycle.bin", "recycler",
    "system volume information", "lost+found", "@eadir", "@tmp", "#recycle", "#snapshot", "@recycle",
    "@recently-snapshot", "__pycache__",
)  # fmt: skip
MATCHES_SYSTEM = re.compile("|".join(map(translate, SYSTEM)))
INNER = "images"  # the one folder that may lie between a class and its pictures, as in Tiny ImageNet

# Why files and folders are skipped, for the notes.
SYSTEM_FILES = "files and folders that systems leave behind"
BROKEN = "links to something that is not there"
SPECIAL = "pipes, devices and other special files"
REPEATED = "links to folders that are read already"
SAME = "links to pictures that are read already"
BESIDE = f"files beside the folder {INNER} of a class"


class Walk:
    """One walk through folders. It remembers which folders and pictures it has read and which files it has skipped."""

    def __init__(self) -> None:
        self._entered: set[tuple[int, int]] = set()  # identities of folders
        self._skipped: dict[str, dict[Path, None]] = {}  # reason -> files and folders, in order
        self._others: dict[Path, None] = {}  # files that are not pictures
        self._labelled: dict[object, tuple[str, Path]] = {}  # identity of a picture -> its class and its first name

    def entries(self, folder: Path) -> tuple[list[Path], list[Path]]:
        """List the folders and files in a folder, by name. A broken link with the name of a picture counts as a file,
        which its reader refuses."""
        folders, files = [], []
        for path in sorted(folder.iterdir(), key=lambda path: path.name):
            if MATCHES_SYSTEM.match(path.name.lower()):
                self._skip(SYSTEM_FILES, path)
            elif os.path.isdir(path):
                folders.append(path)
            elif os.path.isfile(path):
                files.append(path)
            elif os.path.exists(path):
                self._skip(SPECIAL, path)
            elif is_picture(path):
                files.append(path)
            else:
                self._skip(BROKEN, path)
        return folders, files

    def enter(self, folders: list[Path]) -> list[Path]:
        """Return the folders that were not entered before, by name. A folder is preferred to a link to it."""
        new = []
        for folder in sorted(folders, key=lambda path: (path.is_symlink(), path)):
            if (place := identity(folder)) in self._entered:
                self._skip(REPEATED, folder)
            else:
                self._entered.add(place)
                new.append(folder)
        return sorted(new)

    def pictures(self, files: list[Path]) -> list[Path]:
        """Return the files that are pictures, and remember the others."""
        pictures = []
        for file in files:
            if is_picture(file):
                pictures.append(file)
            else:
                self._others[file] = None
        return pictures

    def pictures_below(self, folder: Path) -> list[Path]:
        """Return all pictures in a folder and in the folders below it, sorted."""
        pictures, folders, links = [], [folder], []
        while folders or links:  # links last, so that a folder is listed under its name and not under a link's
            for place in self.enter([folders.pop() if folders else links.pop(0)]):
                inner, files = self.entries(place)
                pictures += self.pictures(files)
                for path in inner:
                    (links if path.is_symlink() else folders).append(path)
        return sorted(pictures)

    def files_by_class(self, folder: Path, layouts: str | None = None) -> list[tuple[str, Path]]:
        """Return (class, file) for all pictures in FOLDER/class/ or FOLDER/class/images/, by name.

        layouts: the expected layouts, for messages. Raise UserError if a picture lies elsewhere, if a class has no
        picture, if two classes have the same name, or if two classes have links to the same picture.
        """
        expected = f"expected: {layouts or f'{folder}/CLASS/*.jpg'}"
        places, files = self.entries(folder)
        if stray := [file for file in files if is_picture(file)]:
            remedy = f"give the folder that holds {folder}, if {folder} is a class"
            remedy = "put it into one, or elsewhere" if places else remedy
            raise UserError(f"{stray[0]} is in no folder of a class: {remedy}; {expected}")
        if broken := [path for path in self._skipped.get(BROKEN, ()) if path.parent == folder]:
            raise UserError(f"{broken[0]} is a link to something that is not there: mount it, or remove the link")
        self.enter([folder])
        labelled, names = [], {}
        for place in self.enter(places):
            if (twin := names.setdefault(normalized(place.name), place)) != place:
                raise UserError(
                    f"{twin} and {place} have the same name, with accents encoded in two ways: put their files into "
                    f"one of them"
                )
            inner, files = self.entries(place)
            inner = self.enter(inner)
            if is_inner(inner) and not any(map(is_picture, files)):
                for file in files:
                    self._skip(BESIDE, file)
                inner, files = self.entries(inner[0])
                inner = self.enter(inner)
            if inner:
                raise UserError(
                    f"{inner[0]} is a folder in {place}, which is read as a class: {expected}; if {place} holds "
                    f"classes, give that folder, otherwise move {inner[0].name} elsewhere"
                )
            files = self.pictures(files)
            if not files:
                raise UserError(f"{place} holds no picture: put some into it, or remove it")
            for file in files:
                key = identity(file) if file.exists() else file  # a broken link
                label, before = self._labelled.setdefault(key, (place.name, file))
                if label != place.name:
                    raise UserError(f"{before} and {file} are the same file, in two classes: remove one of them")
                if before != file:
                    self._skip(SAME, file)
                else:
                    labelled.append((label, file))
        if not labelled:
            raise UserError(f"{folder} holds no folder with images: give a folder that holds one for each class")
        return labelled

    def notes(self) -> list[str]:
        """Return one note for each reason why something was skipped."""
        notes = [f"note: skipped {reason}: {first_few(list(paths))}" for reason, paths in self._skipped.items()]
        return notes + ([note_on_others(list(self._others))] if self._others else [])

    def _skip(self, reason: str, path: Path) -> None:
        self._skipped.setdefault(reason, {})[path] = None


def identity(path: Path) -> tuple[int, int]:
    """Return device and inode, which are the same for all names of one file or folder."""
    stat = path.stat()
    return stat.st_dev, stat.st_ino


def is_inner(folders: list[Path]) -> bool:
    """True if INNER is the only folder."""
    return [folder.name.lower() for folder in folders] == [INNER]


def normalized(name: str) -> str:
    """Return the name with its accents encoded in one way; operating systems differ in this."""
    return unicodedata.normalize("NFC", name)
