"""Run plot.py in this process, and read its page."""

import html.parser

from conftest import succeed

QUICK = ("--dpi", 40, "--format", "png")


def draw(*argv) -> str:
    """Run plot.py, which must succeed, and return its standard error."""
    return succeed("plot.py", *argv).stderr


class Links(html.parser.HTMLParser):
    """Collect the images, links and tags of a page."""

    def __init__(self):
        super().__init__()
        self.images, self.links, self.tags = [], [], set()

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        attrs = dict(attrs)
        if tag == "img":
            assert attrs["alt"]
            self.images.append(attrs["src"])
        self.links += [attrs[k] for k in ("src", "href") if k in attrs]
