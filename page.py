"""The page that shows a run's figures: plain, static, opened from disk, and nothing in it comes from elsewhere."""

import html
import tempfile
from pathlib import Path

from errors import UserError
from figures import animation, still
from results import write_atomically


class Page:
    """Collects the figures and index.html's sections; finish() writes them into `folder`.

    Nothing is written before all is drawn, a picture is replaced whole, none is deleted, and index.html comes last: a
    page, old or new, never links to a file that is not there.
    """

    def __init__(self, folder: Path, titles: list[str], kinds: list[str], dpi: int):
        self.folder, self.dpi = folder, dpi
        self.kinds = ["png", *(kind for kind in dict.fromkeys(kinds) if kind != "png")]
        self.sections = {title: [] for title in titles}
        self.files = {}  # content by name

    def make_folder(self) -> None:
        """UserError where it cannot be made or written into, which is better known before the drawing than after."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=self.folder).close()
        except OSError as fault:
            raise self._unwritable(fault) from fault

    def _unwritable(self, fault: OSError) -> UserError:
        return UserError(f"cannot write into {self.folder} ({fault.strerror}): make room, or mend its permissions")

    def add(self, section: str, name: str, caption: str, fig) -> None:
        """A figure in every format, shown by its PNG."""
        for kind in self.kinds:
            self.files[f"{name}.{kind}"] = still(fig, kind, self.dpi)
        links = " ".join(f'<a href="{name}.{kind}">{kind.upper()}</a>' for kind in self.kinds)
        self._show(section, f"{name}.png", caption, links)

    def add_animation(self, section: str, name: str, caption: str, frames) -> None:
        self.files[f"{name}.gif"] = animation(frames)
        self._show(section, f"{name}.gif", caption, f'<a href="{name}.gif">GIF</a>')

    def note(self, section: str, text: str) -> None:
        self.sections[section].append(f"<p>{html.escape(text)}</p>")

    def _show(self, section, file, caption, links):
        text = html.escape(caption)
        self.sections[section].append(
            f'<figure><img src="{file}" alt="{text}"><figcaption>{text} {links}</figcaption></figure>'
        )

    def finish(self, title: str, settings: dict[str, dict], command: dict) -> Path:
        """Write all, with the runs' settings by name, and the flags that it was drawn with -> index.html's path."""
        keys = dict.fromkeys(key for of_run in settings.values() for key in of_run)
        rows = ""
        for key in keys:
            cells = "".join(f"<td>{html.escape(str(of_run.get(key, '')))}</td>" for of_run in settings.values())
            rows += f"<tr><th>{html.escape(key)}</th>{cells}</tr>\n"
        head = "".join(f"<th>{html.escape(name)}</th>" for name in settings)
        body = "".join(f"<h2>{name}</h2>\n" + "\n".join(parts) + "\n" for name, parts in self.sections.items() if parts)
        drawn = html.escape(", ".join(f"{key} {value}" for key, value in command.items()))
        text = PAGE.format(title=html.escape(title), body=body, head=head, rows=rows, drawn=drawn)
        try:
            for file, content in (self.files | {"index.html": text.encode()}).items():
                write_atomically(self.folder / file, content)
        except OSError as fault:
            raise self._unwritable(fault) from fault
        return self.folder / "index.html"


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
