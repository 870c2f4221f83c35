"""A picture is judged the same by get_data.py, the classifier, --mode classify and the page to draw on."""

import base64
import io
import re
from unittest import mock

import numpy as np
import pytest
from PIL import Image

from conftest import ROOT, assert_refused, call
from errors import UserError
from sources.preparation import Preparation
from studies import classify as classify_study
from studies import classify_page, draw
from studies.classifier import Classifier, picture_of

MAML = ROOT / "pretrained" / "glyphs_10way_1shot_maml.npz"
SHADES = np.arange(40 * 60, dtype=np.uint16).reshape(40, 60)  # 12 bits, and they do not say so


def encoded(kind, image=None, **options):
    stream = io.BytesIO()
    (image or Image.new("RGB", (60, 40), "red")).save(stream, kind, **options)
    return stream.getvalue()


@pytest.fixture
def folders(tmp_path):
    """Two classes of two pictures, and a query picture."""
    for colour, name in enumerate(("in/a/1.png", "in/a/2.png", "in/b/1.png", "in/b/2.png", "query/q.png")):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(encoded("PNG", Image.new("RGB", (60, 40), (50 * colour, 0, 0))))
    return tmp_path


def get(folders, *flags):
    return call("get_data.py", "--dataset", "mine", "--source", folders / "in", "--data_dir", folders, *flags)


def classify(folders, *flags):
    words = ("--support", folders / "in", "--query", folders / "query", "--out", folders / "p.csv", "--gpu_id", -1)
    with mock.patch.object(Classifier, "load", side_effect=ValueError("as far as the classifier")):
        return call("main.py", "--mode", "classify", "--weights", MAML, *words, *flags)


WRONG = {  # what is wrong with a file: its content, and what is said of it
    "cut": (encoded("JPEG")[:-54], "is cut short or damaged"),
    "no picture": (b"I am text", "is damaged, or of a kind that is not read"),
    "no range": (encoded("PNG", Image.fromarray(SHADES)), "does not say which number is white"),
    "floats": (encoded("TIFF", Image.fromarray(SHADES / np.float32(4096))), "does not say which number is white"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_file_is_refused_in_one_sentence_everywhere(name, folders):
    content, words = WRONG[name]
    bad = folders / "in/a/bad.png"
    bad.write_bytes(content)
    sentence = f"{bad} {words}" if words.startswith("is") else words
    assert_refused(get(folders), "1 picture cannot be used: ", sentence, "--skip_bad")
    assert_refused(classify(folders), "1 picture cannot be used: ", sentence, "--skip_bad")
    with pytest.raises(ValueError, match=re.escape(words)):
        picture_of(bad)
    if name != "no picture":
        with pytest.raises(ValueError, match=re.escape(words)), Image.open(io.BytesIO(content)) as image:
            picture_of(image)
    with pytest.raises(UserError):
        draw.picture_of(draw.PREFIX + base64.b64encode(content).decode())
    bad = bad.rename(folders / "query/bad.png")
    assert_refused(classify(folders), str(bad), words)


def test_what_is_bad_is_left_out_and_named_everywhere(folders):
    for i in range(6):
        (folders / f"in/a/bad{i}.jpg").write_bytes(WRONG["cut"][0])
    done = get(folders, "--skip_bad", "--size", 16)
    assert done.returncode == 0 and "6 pictures left out" in done.stdout
    said = r"note: left out: 6 pictures cannot be used: \S+/bad0\.jpg is cut short .*; \S+/bad4\.jpg .* and 1 more$"
    assert re.search(said, done.stderr, re.MULTILINE)
    (folders / "query/cut.gif").write_bytes(encoded("GIF")[:40])
    done = classify(folders, "--skip_bad")
    assert_refused(done, "as far as the classifier")
    assert re.search(said.replace("6", "7").replace("1 more", "2 more"), done.stderr, re.MULTILINE)
    (folders / "query/q.png").unlink()
    assert_refused(classify(folders, "--skip_bad"), "no query picture is left", "cut.gif")
    (folders / "query/q.png").write_bytes(encoded("PNG"))
    for file in (folders / "in/b").iterdir():
        file.write_bytes(b"no")
    assert_refused(classify(folders, "--skip_bad"), "no picture of the class b is left")
    assert_refused(get(folders, "--skip_bad", "--force"), "no picture of the class b can be read")


def test_broken_exif_is_no_fault_and_a_good_one_turns_the_picture_everywhere(folders):
    (folders / "in/a/3.jpg").write_bytes(encoded("JPEG", exif=b"Exif\0\0II*\0"))
    (folders / "query/q.jpg").write_bytes(encoded("JPEG", exif=b"Exif\0\0XX"))
    assert_refused(classify(folders), "as far as the classifier")
    assert get(folders, "--size", 16).returncode == 0
    stripes = np.zeros((40, 60, 3), np.uint8)
    stripes[:, :30] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise: what is left comes above
    (folders / "turned.jpg").write_bytes(encoded("JPEG", Image.fromarray(stripes), exif=exif.tobytes(), quality=95))
    page = classify_page.thumbnail(folders / "turned.jpg")
    shown = Image.open(io.BytesIO(base64.b64decode(re.search(r"base64,([^\"]+)", page)[1])))
    image = Preparation(16, 1)(picture_of(folders / "turned.jpg"))[..., 0]
    for upright in (np.asarray(shown.convert("L").resize((16, 16))), image):
        assert upright[:6].min() > 200 and upright[10:].max() < 50


def test_other_files_are_named(folders):
    (folders / "in/a/notes.txt").write_text("no picture")
    (folders / "query/photo.HEIC").write_text("no picture that is read")
    (folders / "query/nameless").write_bytes(encoded("PNG"))
    for done in (get(folders, "--size", 16), classify(folders)):
        assert f"note: skipped 1 file of a kind that is not read: {folders}/in/a/notes.txt\n" in done.stderr
    assert f"{folders}/query/photo.HEIC; Pillow does not read HEIC" in done.stderr
    files, _ = classify_study.query_files(folders / "query")
    assert [file.name for file in files] == ["nameless", "q.png"]


def test_a_drawing_may_not_be_a_bomb():
    huge = encoded("PNG", Image.new("L", (20 * draw.SIDE, 20 * draw.SIDE)))
    with pytest.raises(UserError, match=r"a drawing has 31\.4 megapixels"):
        draw.picture_of(draw.PREFIX + base64.b64encode(huge).decode())
