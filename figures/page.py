"""The page that shows the figures: static HTML, which is opened from disk and loads nothing from the network."""

import html
import tempfile
from collections.abc import Iterable
from contextlib import AbstractContextManager
from pathlib import Path

from matplotlib.figure import Figure

from errors import user_error
from figures.pictures import animation, still
from files import write_atomically


class Section:
    """A heading of the page, with its pictures and notes. It keeps them in memory and writes nothing to disk."""

    def __init__(self, title: str, kinds: list[str], dpi: int):
        self.title, self.kinds, self.dpi = title, kinds, dpi
        self.parts: list[str] = []  # HTML
        self.files: dict[str, bytes] = {}  # content by file name

    def add(self, name: str, caption: str, fig: Figure) -> None:
        """Add a figure in every format; the page shows its PNG."""
        self._show({f"{name}.{kind}": still(fig, kind, self.dpi) for kind in self.kinds}, caption)

    def add_animation(self, name: str, caption: str, frames: Iterable[tuple[Figure, int]]) -> None:
        """Add a GIF. frames: (figure, milliseconds) of each frame."""
        self._show({f"{name}.gif": animation(frames)}, caption)

    def note(self, text: str) -> None:
        """Add a paragraph."""
        self.parts.append(f"<p>{html.escape(text)}</p>")

    def _show(self, files: dict[str, bytes], caption: str) -> None:
        self.files |= files
        text, shown = html.escape(caption), next(iter(files))
        links = " ".join(f'<a href="{file}">{Path(file).suffix[1:].upper()}</a>' for file in files)
        self.parts.append(f'<figure><img src="{shown}" alt="{text}"><figcaption>{text} {links}</figcaption></figure>')


class Page:
    """index.html and its pictures, collected by section. finish() writes them into `folder`.

    Nothing is written before all is drawn, a picture is replaced as a whole, none is deleted, and index.html comes
    last: so the old page and the new one never link to a missing file.
    """

    def __init__(self, folder: Path, titles: list[str], kinds: list[str], dpi: int):
        self.folder = folder
        kinds = list(dict.fromkeys(["png", *kinds]))
        self.sections = {title: Section(title, kinds, dpi) for title in titles}

    def make_folder(self) -> None:
        """Make the folder before the figures are drawn. Raise UserError if nothing can be written into it."""
        with self._writing():
            self.folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=self.folder).close()

    def finish(self, title: str, settings: dict[str, dict], flags: dict[str, Iterable]) -> Path:
        """Write all files and return the path of index.html. settings: {run name: settings}. flags: {flag: values} that
        the figures were drawn with. Raise UserError if a file cannot be written."""
        sections = [section for section in self.sections.values() if section.parts]
        command = ", ".join(f"{flag} {' '.join(map(str, values))}" for flag, values in flags.items())
        text = PAGE.format(
            title=html.escape(title),
            body="".join(f"<h2>{section.title}</h2>\n" + "\n".join(section.parts) + "\n" for section in sections),
            head="".join(f"<th>{html.escape(name)}</th>" for name in settings),
            rows=settings_rows(list(settings.values())),
            drawn=html.escape(command),
        )
        with self._writing():
            for section in sections:
                for file, content in section.files.items():
                    write_atomically(self.folder / file, content)
            write_atomically(self.folder / "index.html", text)
        return self.folder / "index.html"

    def _writing(self) -> AbstractContextManager:
        return user_error(f"cannot write into {self.folder}", "free some space, or change its permissions", OSError)


def settings_rows(settings: list[dict]) -> str:
    """Return the rows of a table in HTML: every setting that any run has, and its value in each run."""
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
