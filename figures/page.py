"""The page that shows a run's figures: plain, static, opened from disk, and nothing in it comes from elsewhere."""

import html
import tempfile
from collections.abc import Iterable
from pathlib import Path

from matplotlib.figure import Figure

from errors import UserError
from figures.pictures import animation, still
from files import write_atomically


class Section:
    """A heading of the page, with its pictures and what is said about them. Nothing is written to disk here."""

    def __init__(self, title: str, kinds: list[str], dpi: int):
        self.title, self.kinds, self.dpi = title, kinds, dpi
        self.parts: list[str] = []  # HTML
        self.files: dict[str, bytes] = {}  # content by file name

    def add(self, name: str, caption: str, fig: Figure) -> None:
        """A figure in every format, shown by its PNG."""
        for kind in self.kinds:
            self.files[f"{name}.{kind}"] = still(fig, kind, self.dpi)
        self._show(f"{name}.png", caption, [f"{name}.{kind}" for kind in self.kinds])

    def add_animation(self, name: str, caption: str, frames: Iterable[tuple[Figure, int]]) -> None:
        """A GIF of (figure, milliseconds) of each frame."""
        self.files[f"{name}.gif"] = animation(frames)
        self._show(f"{name}.gif", caption, [f"{name}.gif"])

    def note(self, text: str) -> None:
        """A paragraph."""
        self.parts.append(f"<p>{html.escape(text)}</p>")

    def _show(self, file: str, caption: str, linked: list[str]) -> None:
        text = html.escape(caption)
        links = " ".join(f'<a href="{name}">{Path(name).suffix[1:].upper()}</a>' for name in linked)
        self.parts.append(f'<figure><img src="{file}" alt="{text}"><figcaption>{text} {links}</figcaption></figure>')


class Page:
    """index.html and its pictures, collected by section; finish() writes them into `folder`.

    Nothing is written before all is drawn, a picture is replaced whole, none is deleted, and index.html comes last: a
    page, old or new, never links to a file that is not there.
    """

    def __init__(self, folder: Path, titles: list[str], kinds: list[str], dpi: int):
        self.folder = folder
        kinds = list(dict.fromkeys(["png", *kinds]))
        self.sections = {title: Section(title, kinds, dpi) for title in titles}

    def make_folder(self) -> None:
        """UserError where it cannot be made or written into, which is better known before the drawing than after."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=self.folder).close()
        except OSError as fault:
            raise self._unwritable(fault) from fault

    def finish(self, title: str, settings: dict[str, dict], flags: dict[str, Iterable]) -> Path:
        """Write all -> index.html's path. settings: the runs', by name. flags: the values it was drawn with, by flag.

        UserError where it cannot be written.
        """
        sections = [section for section in self.sections.values() if section.parts]
        command = ", ".join(f"{flag} {' '.join(map(str, values))}" for flag, values in flags.items())
        text = PAGE.format(
            title=html.escape(title),
            body="".join(f"<h2>{section.title}</h2>\n" + "\n".join(section.parts) + "\n" for section in sections),
            head="".join(f"<th>{html.escape(name)}</th>" for name in settings),
            rows=settings_rows(list(settings.values())),
            drawn=html.escape(command),
        )
        try:
            for section in sections:
                for file, content in section.files.items():
                    write_atomically(self.folder / file, content)
            write_atomically(self.folder / "index.html", text)
        except OSError as fault:
            raise self._unwritable(fault) from fault
        return self.folder / "index.html"

    def _unwritable(self, fault: OSError) -> UserError:
        return UserError(f"cannot write into {self.folder} ({fault.strerror}): make room, or mend its permissions")


def settings_rows(settings: list[dict]) -> str:
    """A table's rows in HTML: each setting that any run has, and its value in every run."""
    rows = ""
    for name in dict.fromkeys(name for run in settings for name in run):
        cells = "".join(f"<td>{html.escape(str(run.get(name, '')))}</td>" for run in settings)
        rows += f"<tr><th>{html.escape(name)}</th>{cells}</tr>\n"
    return rows


PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; color: #222;
  background: #fff; }}
figure {{ margin: 1.5rem 0; }}
img {{ max-width: 100%; height: auto; }}
figcaption {{ max-width: 60rem; color: #444; }}
table {{ border-collapse: collapse; font-size: 0.9rem; }}
th, td {{ border-bottom: 1px solid #ccc; padding: 0.15rem 1.5rem 0.15rem 0; text-align: left; font-weight: normal; }}
thead th {{ font-weight: bold; }}
</style>
</head>
<body>
<h1>{title}</h1>
{body}<h2>Settings</h2>
<table>
<thead><tr><th></th>{head}</tr></thead>
<tbody>
{rows}</tbody>
</table>
<p>Drawn with: {drawn}.</p>
</body>
</html>
"""
