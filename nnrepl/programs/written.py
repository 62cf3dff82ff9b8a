"""Written: the files that the program opens for writing. A run again writes them again, and the user is told so."""

from __future__ import annotations

import builtins
import functools
import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import mlx.core as mx

from nnrepl.programs import streams

_SAVING = [name for name in ("save", "savez", "savez_compressed", "save_safetensors", "save_gguf") if hasattr(mx, name)]
_MOVING = ("mkdir", "rename", "replace")
_NAMED = 5


class WrittenFiles:
    """Which files the program has written."""

    def __init__(self) -> None:
        self._paths: dict[str, None] = {}
        self._told: set[str] = set()
        self._before = frozenset(_open_files())
        self._runs: Callable[[], bool] = bool

    def warning(self) -> str:
        """Return what to say before the program runs again; "" if it wrote none. Files are named once."""
        for path in _open_files():  # a database, say, which opens its file itself
            if path not in self._before:
                self._paths[path] = None
        if not self._paths:
            return ""
        here, new = os.getcwd(), [path for path in self._paths if path not in self._told]
        names = [os.path.relpath(path) if path.startswith(here + os.sep) else path for path in new]
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        besides = ", and besides" if self._told and names else ""
        self._told.update(new)
        return f"it writes its files again{besides}{': ' if names else ''}{', '.join(names[:_NAMED])}{more}"

    @contextmanager
    def watching(self, runs: Callable[[], bool]) -> Iterator[None]:
        """Note what is opened for writing, made, put in another's place, or saved by MLX, inside; of the standard
        streams what is nnrepl's stays open.

        Args:
            runs: Tells whether the program runs; else it is nnrepl that writes.
        """
        self._runs = runs
        places: list[tuple[Any, str]] = [(builtins, "open"), (io, "open"), *((mx, name) for name in _SAVING)]
        places += [(os, name) for name in (*_MOVING, "close")]
        before = [(holder, name, getattr(holder, name)) for holder, name in places]
        noted = self._noting(io.open, _writes)

        @functools.wraps(io.open, updated=())
        def opening(*args: Any, **kwargs: Any) -> Any:
            stream = streams.opened(*args, **kwargs) if runs() and (args or "file" in kwargs) else None
            return noted(*args, **kwargs) if stream is None else stream

        @functools.wraps(os.close, updated=())
        def closing(fd: int) -> None:
            if not (runs() and streams.shut(fd)):
                close(fd)

        close, instead = os.close, {"open": opening, "close": closing}
        try:
            for holder, name, original in before:
                at = 1 if name in ("rename", "replace") else 0
                setattr(holder, name, instead.get(name) or self._noting(original, _always, at))
            yield
        finally:
            for holder, name, original in before:
                setattr(holder, name, original)

    def _noting(self, original: Callable[..., Any], writes: Callable[..., bool], at: int = 0) -> Callable[..., Any]:
        @functools.wraps(original, updated=())
        def noting(*args: Any, **kwargs: Any) -> Any:
            if self._runs() and writes(*args, **kwargs):
                names = [kwargs[name] for name in ("file", "path", "dst") if name in kwargs]
                self._note(args[at] if len(args) > at else names[0] if names else None)
            return original(*args, **kwargs)

        return noting

    def _note(self, file: Any) -> None:
        try:
            path = os.path.abspath(os.fsdecode(file))
        except TypeError:
            return  # a descriptor, or a file that is open already
        if not os.path.exists(path) or os.path.isfile(path):  # no device, and no folder that is there already
            self._paths[path] = None


def _writes(file: Any = None, mode: Any = "r", *_: Any, **__: Any) -> bool:
    return isinstance(mode, str) and any(letter in mode for letter in "wax+")


def _always(*_: Any, **__: Any) -> bool:
    return True


def _open_files() -> list[str]:
    """Return the files that this process has open for writing, where the system tells (Linux)."""
    found = []
    for number in _entries("/proc/self/fd"):
        try:
            path = os.readlink(f"/proc/self/fd/{number}")
            with open(f"/proc/self/fdinfo/{number}") as info:
                flags = next((int(line.split()[1], 8) for line in info if line.startswith("flags:")), 0)
        except OSError:  # closed meanwhile: the one that listed them
            continue
        if flags & os.O_ACCMODE != os.O_RDONLY and os.path.isfile(path) and not path.startswith("/proc/"):
            found.append(path)
    return found


def _entries(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []
