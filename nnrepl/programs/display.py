"""Display: what notebooks show, printed; stands in for IPython where it is not installed.

`display`, `Markdown`, `HTML` and the like print their text. Nothing else of IPython is there.
"""

from __future__ import annotations

import importlib
import importlib.machinery
import importlib.util
import json
import sys
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from typing import Any

_BREAKS = ("p", "div", "br", "tr", "li", "table", "h1", "h2", "h3", "h4", "pre", "ul", "ol")
TEXTS = ("Markdown", "Latex", "Math", "Pretty", "Code", "TextDisplayObject", "DisplayObject")
DATA = ("Image", "Audio", "Video", "IFrame", "YouTubeVideo", "VimeoVideo", "Javascript", "FileLink", "FileLinks", "SVG")


class Displayed:
    """Something that a notebook shows: its text, or what kind of thing it is.

    Args:
        data: What is shown, or where it is.
        filename: A file that holds it.
        url: Where it is.
    """

    def __init__(self, data: Any = None, url: Any = None, filename: Any = None, **kwargs: Any) -> None:
        if data is None and filename is not None and type(self).__name__ in (*TEXTS, "HTML"):
            data = Path(filename).read_text(encoding="utf-8")
        self.data = data
        self.url = url
        self.filename = filename
        self.metadata = kwargs.get("metadata")

    def __str__(self) -> str:
        where = self.filename or self.url or (self.data if isinstance(self.data, (str, Path)) else None)
        return f"<{type(self).__name__}{f' {where}' if where is not None else ''}>"

    __repr__ = __str__


class Markup(Displayed):
    """A text in some markup."""

    def __str__(self) -> str:
        return str(self.data)

    __repr__ = __str__


class HTML(Displayed):
    """HTML, shown as its text."""

    def __str__(self) -> str:
        return text_of(str(self.data))

    __repr__ = __str__


class JSON(Displayed):
    """A tree of plain values."""

    def __str__(self) -> str:
        return self.data if isinstance(self.data, str) else json.dumps(self.data, indent=2, default=str)

    __repr__ = __str__


class _Text(HTMLParser):
    """Collects the text of a document, cells apart by two spaces."""

    def __init__(self) -> None:
        super().__init__()
        self.parts: list[str] = []
        self._hidden = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Begin a line where a browser does."""
        self._hidden += tag in ("script", "style")
        if tag in _BREAKS:
            self.parts.append("\n")
        elif tag in ("td", "th"):
            self.parts.append("  ")

    def handle_endtag(self, tag: str) -> None:
        """Note that what comes is seen again."""
        self._hidden -= tag in ("script", "style")

    def handle_data(self, data: str) -> None:
        """Keep what is seen."""
        if not self._hidden:
            self.parts.append(" ".join(data.split()) if data.strip() else "")


def text_of(html: str) -> str:
    """Return the text of some HTML, line by line."""
    reader = _Text()
    reader.feed(html)
    lines = [line.strip() for line in "".join(reader.parts).split("\n")]
    return "\n".join(line for line in lines if line)


def display(*things: Any, **kwargs: Any) -> None:
    """Print what a notebook would show."""
    for thing in things:
        print(str(thing) if isinstance(thing, Displayed) else repr(thing))


def _nothing(*args: Any, **kwargs: Any) -> None:
    """There is nothing to clear, and no shell."""


_made: dict[str, ModuleType] = {}


def provide(wanted: bool) -> None:
    """From now on a program finds IPython, the real one if it is installed, or does not, as under plain Python.

    Args:
        wanted: Whether the program is a notebook.
    """
    for name, module in _made.items():
        if sys.modules.get(name) is module:
            del sys.modules[name]
    _made.clear()
    if wanted and not _is_installed():
        _made.update(_modules())
        sys.modules.update(_made)


def shown(*things: Any, **kwargs: Any) -> None:
    """Do what `display` does in a notebook that does not import it."""
    importlib.import_module("IPython.display").display(*things, **kwargs)


def _is_installed() -> bool:
    return "IPython" in sys.modules or importlib.util.find_spec("IPython") is not None


def _modules() -> dict[str, ModuleType]:
    """Return the modules that stand in for IPython's."""
    shown: dict[str, Any] = {name: type(name, (Markup,), {}) for name in TEXTS}
    shown |= {name: type(name, (Displayed,), {}) for name in DATA}
    shown |= {"HTML": HTML, "JSON": JSON, "display": display, "clear_output": _nothing, "update_display": display}
    shown |= {f"display_{name}": display for name in ("markdown", "html", "latex", "pretty", "png", "svg")}
    found = {name: ModuleType(name) for name in ("IPython", "IPython.display", "IPython.core", "IPython.core.display")}
    for name in ("IPython.display", "IPython.core.display"):
        vars(found[name]).update(shown)
    root = vars(found["IPython"])
    root.update(display=found["IPython.display"], core=found["IPython.core"], get_ipython=_nothing, __path__=[])
    # What asks for IPython's version (matplotlib) asks for a shell then, and finds none.
    root.update(version_info=(9, 0, 0, ""), __version__="9.0.0")
    for name, module in found.items():
        module.__spec__ = importlib.machinery.ModuleSpec(name, None)
    vars(found["IPython.core"]).update(display=found["IPython.core.display"], __path__=[])
    return found
