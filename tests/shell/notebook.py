"""Notebook: stands in for IPython in a kernel: a namespace, magics, events, and somebody who answers `input()`."""

from __future__ import annotations

import ast
import builtins
import contextlib
import io
import linecache
import sys
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest


class Events:
    """IPython's events."""

    def __init__(self) -> None:
        self.callbacks: dict[str, list[Callable[..., Any]]] = {}

    def register(self, name: str, function: Callable[..., Any]) -> None:
        """Have a function called."""
        self.callbacks.setdefault(name, []).append(function)

    def unregister(self, name: str, function: Callable[..., Any]) -> None:
        """No longer."""
        self.callbacks[name].remove(function)


class OutStream(io.TextIOBase):
    """What a kernel has as standard output: text, no bytes behind it, no terminal."""

    encoding = "UTF-8"  # type: ignore[assignment]
    errors = "strict"  # type: ignore[assignment]

    def __init__(self, name: str) -> None:
        self.name = name
        self.written: list[str] = []

    def write(self, text: str) -> int:
        """Keep it."""
        assert isinstance(text, str)
        self.written.append(text)
        return len(text)


OutStream.__module__ = "ipykernel.iostream"


class Notebook:
    """As much of a kernel's shell as nnrepl uses, as IPython 9 has it."""

    kernel = True

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.user_module = ModuleType("__main__")
        self.user_ns: dict[str, Any] = self.user_module.__dict__
        self.user_ns["__builtins__"] = builtins
        self.events = Events()
        self.magics: dict[tuple[str, str], Callable[..., Any]] = {}
        self.compile = SimpleNamespace(_filename_map={})
        self.execution_count = 0
        self.asked: list[str] = []
        self._answers: list[str] = []
        stand_in = ModuleType("IPython")
        stand_in.get_ipython = lambda: self  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "IPython", stand_in)
        monkeypatch.setattr(builtins, "input", self._input)
        self._out, self._errors = OutStream("stdout"), OutStream("stderr")

    def shown(self) -> str:
        """What has been printed since this was last called."""
        text = "".join(self._out.written)
        self._out.written.clear()
        return text

    def register_magic_function(self, function: Callable[..., Any], kind: str, name: str) -> None:
        """Know a magic."""
        self.magics[kind, name] = function

    def transform_cell(self, text: str) -> str:
        """Nothing to transform."""
        return text

    def _input(self, prompt: str = "") -> str:
        self.asked.append(prompt)
        if not self._answers:
            raise NotImplementedError("raw_input was called, but this frontend does not support input requests.")
        answer = self._answers.pop(0)
        print(prompt + answer)
        return answer

    def run(self, text: str, *answers: str) -> Any:
        """Run a cell, with somebody who types the answers. Returns what the cell raised, or what its last line gave."""
        self._answers = list(answers)
        with contextlib.redirect_stdout(self._out), contextlib.redirect_stderr(self._errors):
            result = self._run(text)
            assert sys.stdout is self._out  # nobody stands in for it any more
            return result

    def _run(self, text: str) -> Any:
        self.execution_count += 1
        failed: BaseException | None = None
        result: Any = None
        first, _, rest = text.partition("\n")
        try:
            if first.startswith("%%"):
                name, _, line = first[2:].partition(" ")
                result = self.magics["cell", name](line, rest)
            elif first.startswith("%"):
                name, _, line = first[1:].partition(" ")
                result = self.magics["line", name](line)
            else:
                result = self._execute(text)
        except BaseException as error:
            failed = error
        for callback in list(self.events.callbacks.get("post_run_cell", [])):
            callback(SimpleNamespace(error_in_exec=failed, result=result))
        return failed if failed is not None else result

    def _execute(self, text: str) -> Any:
        filename = f"/tmp/ipykernel_1/{self.execution_count}.py"
        self.compile._filename_map[filename] = self.execution_count
        linecache.cache[filename] = (len(text), None, [line + "\n" for line in text.splitlines()], filename)
        tree = ast.parse(text)
        last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, filename, "exec"), self.user_ns)
        return None if last is None else eval(compile(ast.Expression(last.value), filename, "eval"), self.user_ns)
