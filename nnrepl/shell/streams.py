"""Streams: what stands in for the standard output."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nnrepl.view.glyphs import encodable


class Tolerant:
    """A text stream that writes `-` and `dL/dz` where it has no sign for more, and is the given stream otherwise."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        self._stream.write(encodable(text, getattr(self._stream, "encoding", None) or "utf-8"))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class Tee:
    """Standard output for Python at the prompt: what it prints belongs to the session.

    Attributes:
        behind: The real one.
    """

    def __init__(self, stream: Any, said: Callable[[str], None]) -> None:
        self._stream = self.behind = stream
        self._said = said
        self._line = ""

    def write(self, text: str) -> int:
        *lines, self._line = (self._line + text).split("\n")
        for line in lines:
            self._said(line or " ")
        return len(text) if self._stream is None else int(self._stream.write(text))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
