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

_SAVING = [name for name in ("save", "savez", "savez_compressed", "save_safetensors", "save_gguf") if hasattr(mx, name)]
_NAMED = 5


class WrittenFiles:
    """Which files the program has written."""

    def __init__(self) -> None:
        self._paths: dict[str, None] = {}
        self._runs: Callable[[], bool] = bool

    def warning(self) -> str:
        """Return what to say before the program runs again; "" if it wrote none."""
        if not self._paths:
            return ""
        here = os.getcwd()
        names = [os.path.relpath(path) if path.startswith(here + os.sep) else path for path in self._paths]
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        return f"it writes its files again: {', '.join(names[:_NAMED])}{more}"

    @contextmanager
    def watching(self, runs: Callable[[], bool]) -> Iterator[None]:
        """Note what is opened for writing, or saved by MLX, inside.

        Args:
            runs: Tells whether the program runs; else it is nnrepl that writes.
        """
        self._runs = runs
        places: list[tuple[Any, str]] = [(builtins, "open"), (io, "open"), *((mx, name) for name in _SAVING)]
        before = [(holder, name, getattr(holder, name)) for holder, name in places]
        opening = self._noting(io.open, _writes)
        try:
            for holder, name, original in before:
                setattr(holder, name, opening if name == "open" else self._noting(original, lambda *_, **__: True))
            yield
        finally:
            for holder, name, original in before:
                setattr(holder, name, original)

    def _noting(self, original: Callable[..., Any], writes: Callable[..., bool]) -> Callable[..., Any]:
        @functools.wraps(original, updated=())
        def noting(*args: Any, **kwargs: Any) -> Any:
            if self._runs() and writes(*args, **kwargs):
                self._note(args[0] if args else kwargs.get("file"))
            return original(*args, **kwargs)

        return noting

    def _note(self, file: Any) -> None:
        try:
            path = os.path.abspath(os.fsdecode(file))
        except TypeError:
            return  # a descriptor, or a file that is open already
        if not os.path.exists(path) or os.path.isfile(path):  # no device
            self._paths[path] = None


def _writes(file: Any = None, mode: Any = "r", *_: Any, **__: Any) -> bool:
    return isinstance(mode, str) and any(letter in mode for letter in "wax+")
