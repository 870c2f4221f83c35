"""The tables, figures and numbers of the documents are those of the kept results."""

import io
import re

import documents
import pytest
from catalogue import STUDIES
from documents import cell, plain, stale, write_all
from PIL import Image, PngImagePlugin
from records import read_all

from conftest import ROOT
from errors import UserError
from study_runs import OTHER_CHIP, made

PAGES = [
    *ROOT.glob("*.md"),
    *(page for name in ("docs", "pretrained", "sources/splits") for page in ROOT.glob(f"{name}/**/*.md")),
]
GRADIENTS = STUDIES["gradients"]
README = """# Title
<!-- python runfiles/study.py gradients table pairs -->
old
<!-- end -->
Meta-dropout is behind
by 5.00 points. The paper has 7.00 ± 1.00.
<!-- python runfiles/study.py gradients figure curves --out docs/f.png -->
![](docs/f.png)
<!-- end -->
End.
"""
ROW = "| published | 1 | MAML 50.00 | Meta-dropout 45.00 | -5.00 | -5.00 ± 0.00 |  |"


def test_the_documents_show_the_kept_results():
    """`make docs` writes the tables and figures anew, and names the numbers in sentences that differ."""
    assert [*stale(read_all(None))] == []


def anchor_of(heading):
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w -]", "", heading.replace("`", "").strip().lower()).replace(" ", "-")


def anchors(page):
    text = re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)  # without code
    return {anchor_of(line.lstrip("#")) for line in text.splitlines() if line.startswith("#")}


@pytest.mark.parametrize("page", PAGES, ids=[page.relative_to(ROOT).as_posix() for page in PAGES])
def test_links_lead_to_files_and_to_headings(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text("utf-8")):
        place, _, anchor = link.partition("#")
        if not place.startswith(("http://", "https://")):
            target = page.parent / place if place else page
            assert target.exists() and (not anchor or anchor in anchors(target)), link


def pair(accuracy=45, **more):
    return [made(GRADIENTS, name, 0, [own], **more) for name, own in (("maml", 50), ("metadrop", accuracy))]


@pytest.fixture
def house(tmp_path, monkeypatch):
    """Return a folder of documents: a table, a figure, a sentence with a number, and one with somebody else's."""
    (tmp_path / "docs").mkdir()
    monkeypatch.setattr(documents, "ROOT", tmp_path)
    monkeypatch.setattr(documents, "NUMBERS", tmp_path / "docs/numbers.toml")
    (tmp_path / "README.md").write_text(README)
    (tmp_path / "docs/any.md").write_text("<!-- python runfiles/study.py rates table pairs -->\n<!-- end -->\n")
    (tmp_path / "docs/numbers.toml").write_text(
        '[[number]]\nfile = "README.md"\nsentence = "is behind by 5.00 points"\nvalue = "5.00"\nsign = "-"\n'
        'command = "python runfiles/study.py gradients cell pairs published difference"\n'
        '[[number]]\nfile = "README.md"\nsentence = "has 7.00 ± 1.00"\nvalue = "7.00 ± 1.00"\nsource = "the paper"\n'
    )
    return tmp_path


def test_blocks_and_figures_are_written_anew_and_nothing_else(house, capsys):
    write_all(pair())
    text = (house / "README.md").read_text()
    assert (
        f"\n{ROW}\n<!-- end -->\nMeta" in text and "old" not in text and "![](docs/f.png)\n<!-- end -->\nEnd.\n" in text
    )
    assert "there are no results of rates yet" in (house / "docs/any.md").read_text()
    assert not [*stale(pair())] and capsys.readouterr().out == ""
    before = {path: path.stat().st_mtime_ns for path in house.rglob("*.*")}
    write_all(pair())
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_what_is_stale_is_named(house, capsys):
    """Another number in a table, a figure of other numbers, and a number in a sentence."""
    write_all(pair())
    assert [*stale(pair(44))] == [
        "README.md: python runfiles/study.py gradients table pairs prints another table",
        "README.md: python runfiles/study.py gradients cell pairs published difference prints -6.00, and the sentence "
        "has 5.00",
    ]  # fmt: skip
    other = pair(curve={"iter": [0, 800], "loss": [1.0, 2.0], "val_acc": [0.1, 0.2], "val_ci95": [0.0, 0.0]})
    assert [*stale(other)] == ["docs/f.png shows other numbers than python runfiles/study.py gradients figure curves"]
    (house / "docs/f.png").unlink()
    assert len([*stale(pair())]) == 1
    write_all(other)
    assert [*stale(other)] == []
    write_all(pair(44))
    assert "prints -6.00" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("by 5.00", "by 5.10", "README.md has no sentence 'is behind by 5.00 points' with 5.00"),
        ("is behind", "was behind", "README.md has no sentence"),
        ("End.", "It has 3.0 ± 0.5 more.", "README.md: 3.0 ± 0.5 stands in a sentence and is not in docs/numbers.toml"),
        ("-5.00 |", "-5.01 |", "prints another table"),
        ("| published |", "| publisht |", "prints another table"),
    ],
)
def test_an_edited_document_is_named(old, new, sentence, house):
    write_all(pair())
    text = (house / "README.md").read_text()
    (house / "README.md").write_text(text.replace(old, new, 1))
    (found,) = stale(pair())
    assert sentence in found


def test_a_number_that_is_not_there_or_has_another_sign_is_named(house):
    write_all(pair())
    numbers = (house / "docs/numbers.toml").read_text()
    for old, new, sentence in (
        ("published", "exact", "there is no row 'exact'"),
        ("difference", "'the second'", "prints Meta-dropout 45.00, and the sentence has 5.00"),
        ('value = "5.00"', 'value = "4.00"', "no sentence"),
        ('sentence = "is', 'sentence = "that is', "no sentence"),
        ('sign = "-"', "", "prints -5.00, and the sentence has 5.00"),
    ):  # fmt: skip
        (house / "docs/numbers.toml").write_text(numbers.replace(old, new))
        assert any(sentence in one for one in stale(pair()))
    assert plain("**+5.00**") == "5.00" and plain("-5.00") == "-5.00"


def test_a_number_is_the_whole_one():
    text = "MAML 95.19 ± 0.27, -5.00"
    assert documents.has_number(text, "95.19") and documents.has_number(text, "95.19 ± 0.27")
    assert documents.has_number(text, "-5.00")
    for other in ("95.1", "5.19", "0.27", "5.00", "95"):
        assert not documents.has_number(text, other)


def test_a_figure_that_shows_these_numbers_is_not_drawn_again(house, monkeypatch):
    found = documents.all_outcomes(pair())["gradients"]
    documents.figure(GRADIENTS, "curves", found, file := house / "f.png")
    digest = documents.digest_of(file)
    information = PngImagePlugin.PngInfo()
    information.add_text("Data", digest)
    Image.new("L", (1, 1)).save(file, pnginfo=information)
    documents.figure(GRADIENTS, "curves", found, file)
    assert Image.open(file).size == (1, 1)
    Image.new("L", (1, 1)).save(file)  # without a digest
    documents.figure(GRADIENTS, "curves", found, file)
    assert Image.open(file).size > (99, 99) and documents.digest_of(file) == digest
    jpeg = io.BytesIO()
    Image.new("L", (1, 1)).save(jpeg, "JPEG")
    for content in (b"", file.read_bytes()[:40], jpeg.getvalue()):
        file.write_bytes(content)
        documents.figure(GRADIENTS, "curves", found, file)
        assert documents.digest_of(file) == digest
    assert [path.name for path in house.glob("*f.png*")] == ["f.png"]


@pytest.mark.parametrize("words", ["stepz table pairs", "gradients table", "gradients", "gradients cell pairs"])
def test_a_mistyped_block_is_named(words, house):
    text = (house / "README.md").read_text()
    (house / "README.md").write_text(f"{text}<!-- python runfiles/study.py {words} -->\n<!-- end -->\n")
    write_all(pair())
    assert f"python runfiles/study.py {words} prints nothing" in (house / "README.md").read_text()


def test_each_kind_of_machine_and_version_of_the_data_has_its_own_table():
    """That with most results comes first, and a cell is its."""
    records = [
        *pair(),
        *pair(40, device=OTHER_CHIP),
        made(GRADIENTS, "maml", 1, [9], device=OTHER_CHIP),
        *pair(30, data="e"),
    ]
    text = documents.table(GRADIENTS, "pairs", documents.outcomes(GRADIENTS, records))
    first, second, third = text.split("On ")[1:]
    assert first.startswith("Another chip:\n\n|") and "-10.00" in first
    assert second.startswith("A chip with AVX2:\n\n|") and "-5.00" in second and "-20.00" in third
    assert cell(text, "published", "difference") == "-10.00"


def test_a_cell_is_found_by_its_row_and_column():
    text = "| | eps | a |\n|---|---|---|\n| one | 0.1 | 1 |\n| one | 0.2 | **2** |\n\n| | b |\n|---|---|\n| one | 3 |"
    assert [cell(text, *where) for where in (("one", "a"), ("one 0.2", "a"), ("one", "b"))] == ["1", "**2**", "3"]
    for where in (("one 0.3", "a"), ("two", "a"), ("one", "c")):
        with pytest.raises(UserError, match="there is no row"):
            cell(text, *where)
