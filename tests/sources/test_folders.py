"""The walk through folders: classes, files below, links, what systems leave, and names."""

import os
import unicodedata

import pytest

from errors import UserError
from originals import touch
from sources.folders import MATCHES_SYSTEM, SYSTEM, Walk
from sources.pictures import first_few


def below(root):
    walk = Walk()
    return [file.relative_to(root).as_posix() for file in walk.pictures_below(root)], " ".join(walk.notes())


def classes(root):
    walk = Walk()
    files = [(label, file.relative_to(root).as_posix()) for label, file in walk.files_by_class(root)]
    return files, " ".join(walk.notes())


def test_links_to_folders_are_followed_and_each_folder_is_listed_once(tmp_path):
    touch(tmp_path, "in/b/1.png", "in/b/deep/2.png", "in/3.png", "elsewhere/inner/4.png")
    (tmp_path / "in/a").symlink_to(tmp_path / "in/b")  # its name comes first, and the folder has its own
    (tmp_path / "in/c").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "in/d").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "in/b/loop").symlink_to(tmp_path / "in")
    (tmp_path / "in/itself").symlink_to(tmp_path / "in/itself")
    files, notes = below(tmp_path / "in")
    assert files == ["3.png", "b/1.png", "b/deep/2.png", "c/inner/4.png"]
    assert all(f"in/{name}" in notes for name in ("a", "d", "b/loop", "itself")) and "links to folders" in notes


def test_classes_are_followed_too_and_a_loop_in_one_is_no_folder_in_it(tmp_path):
    touch(tmp_path, "in/b/1.png", "elsewhere/2.png")
    for name, target in (("a", "in/b"), ("c", "elsewhere"), ("b/loop", "in"), ("b/up", "in/b")):
        (tmp_path / "in" / name).symlink_to(tmp_path / target)
    files, notes = classes(tmp_path / "in")
    assert files == [("b", "b/1.png"), ("c", "c/2.png")]
    assert all(f"in/{name}" in notes for name in ("a", "b/loop", "b/up"))


def test_only_regular_files_are_listed(tmp_path):
    touch(tmp_path, "a/1.png")
    os.mkfifo(tmp_path / "a/pipe.png")
    (tmp_path / "a/zero.png").symlink_to("/dev/zero")
    (tmp_path / "a/linked.png").symlink_to(tmp_path / "a/1.png")
    (tmp_path / "a/gone.png").symlink_to(tmp_path / "nowhere")
    special = f"special files: {tmp_path}/a/pipe.png, {tmp_path}/a/zero.png"
    files, notes = below(tmp_path)
    assert files == ["a/1.png", "a/gone.png", "a/linked.png"] and special in notes
    files, notes = classes(tmp_path)
    assert files == [("a", "a/1.png"), ("a", "a/gone.png")] and special in notes  # a picture counts once in its class
    assert f"links to pictures that are read already: {tmp_path}/a/linked.png" in notes


def test_a_broken_link_is_named_and_is_refused_in_place_of_a_class(tmp_path):
    """It may be a class on a disk that is not mounted."""
    touch(tmp_path, "a/1.png")
    (tmp_path / "a/link").symlink_to(tmp_path / "nowhere")
    assert f"note: skipped links to something that is not there: {tmp_path}/a/link" in below(tmp_path)[1]
    assert f"{tmp_path}/a/link" in classes(tmp_path)[1]
    (tmp_path / "b").symlink_to("/mnt/not/mounted")
    with pytest.raises(UserError, match=r"/b is a link to something that is not there: mount it"):
        classes(tmp_path)


def test_one_picture_is_not_in_two_classes(tmp_path):
    touch(tmp_path, "a/1.png", "b/2.png")
    os.link(tmp_path / "a/1.png", tmp_path / "b/1.png")
    with pytest.raises(UserError, match=r"a/1\.png and .*b/1\.png are the same file, in two classes: remove one"):
        classes(tmp_path)


def test_one_picture_is_not_in_two_splits(tmp_path):
    touch(tmp_path, "train/a/1.png", "test/b/2.png")
    (tmp_path / "test/b/1.png").symlink_to(tmp_path / "train/a/1.png")
    walk = Walk()
    walk.files_by_class(tmp_path / "train")
    with pytest.raises(UserError, match="are the same file, in two classes"):
        walk.files_by_class(tmp_path / "test")


def test_what_systems_leave_is_nobodys_class_or_picture(tmp_path):
    """In any capitals, at every level, with a note; and what merely begins alike is somebody's."""
    left = ["__MACOSX", "@eaDir", "lost+found", "$RECYCLE.BIN", "System Volume Information", "#recycle", ".git",
            ".Trash-1000", ".ipynb_checkpoints"]  # fmt: skip
    touch(tmp_path, "a/1.png", "lost/1.png", "recycle/1.png", "a/._1.png", "a/Thumbs.db", "a/.DS_Store", "DESKTOP.INI")
    touch(tmp_path, *(f"{name}/1.png" for name in left), *(f"a/{name}/1.png" for name in left))
    own = ["a/1.png", "lost/1.png", "recycle/1.png"]
    for files, notes in (below(tmp_path), classes(tmp_path)):
        assert [file if isinstance(file, str) else file[1] for file in files] == own
        assert (
            notes.startswith("note: skipped files and folders that systems leave behind: ") and "and 17 more" in notes
        )
    assert all(MATCHES_SYSTEM.match(pattern.replace("*", "x")) for pattern in SYSTEM)


def test_an_inner_folder_of_images_is_the_class_own(tmp_path):
    touch(tmp_path, "n01/images/1.png", "n01/n01_boxes.txt", "n02/Images/2.png")
    files, notes = classes(tmp_path)
    assert files == [("n01", "n01/images/1.png"), ("n02", "n02/Images/2.png")]
    assert f"{tmp_path}/n01/n01_boxes.txt" in notes
    touch(tmp_path, "n02/beside.png")
    with pytest.raises(UserError, match=r"n02/Images is a folder in .*/n02, which is read as a class"):
        classes(tmp_path)


def test_folders_that_are_no_classes_are_refused(tmp_path):
    touch(tmp_path, "a/1.png", "top/b/1.png")
    with pytest.raises(UserError, match=r"top/b is a folder in .*expected: .*/CLASS/\*\.jpg; if .*top holds classes"):
        classes(tmp_path)
    assert [label for label, _ in classes(tmp_path / "top")[0]] == ["b"]
    (tmp_path / "top/empty").mkdir()
    with pytest.raises(UserError, match="empty holds no picture: put some into it, or remove it"):
        classes(tmp_path / "top")
    touch(tmp_path, "top/empty/.DS_Store")
    with pytest.raises(UserError, match="empty holds no picture"):
        classes(tmp_path / "top")
    touch(tmp_path, "top/stray.PNG", "top/README.md")
    with pytest.raises(UserError, match=r"stray\.PNG is in no folder of a class"):
        classes(tmp_path / "top")
    with pytest.raises(UserError, match=r"a/1\.png is in no folder of a class: give the folder that holds .*/a, if"):
        classes(tmp_path / "a")
    (tmp_path / "none").mkdir()
    with pytest.raises(UserError, match="holds no folder with images"):
        classes(tmp_path / "none")


def test_two_spellings_of_one_name_are_named(tmp_path):
    composed, decomposed = (unicodedata.normalize(form, "é") for form in ("NFC", "NFD"))
    touch(tmp_path, f"{composed}/1.png")
    assert classes(tmp_path)[0][0][0] == composed
    touch(tmp_path, f"{decomposed}/1.png")
    if len(os.listdir(tmp_path)) == 2:  # some file systems take them for one
        with pytest.raises(UserError, match="have the same name, with accents encoded in two ways"):
            classes(tmp_path)


def test_names_that_are_not_utf_8_and_control_characters_can_be_printed(tmp_path):
    name = os.fsdecode(b"Zo\xeb")
    touch(tmp_path, f"{name}/1.png", f"{name}/._1.png")
    files, notes = classes(tmp_path)
    assert files == [(name, f"{name}/1.png")]
    assert notes.encode() and "Zo\\udceb" in notes
    assert first_few(["a\nb", "c", *"defgh"]) == "'a\\nb', c, d, e, f and 2 more"
