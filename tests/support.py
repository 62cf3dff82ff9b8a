"""What the tests share: comparing with plain MLX bit by bit, and running nnrepl as a person would."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten

import nnrepl
from nnrepl.commands.interpreter import Interpreter
from nnrepl.programs.function import restarts_of
from nnrepl.session.session import TapeSession
from nnrepl.shell.api import answer, remember
from tests import forked

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"
PROMPT = re.compile(r"^\(nnrepl(?: \d+)?\) ", re.MULTILINE)
"""What stands before a typed line, with the number of the cell that Python would be there."""


def assert_same_bits(expected: Any, found: Any) -> None:
    """Two trees of arrays (and anything else) are the same, NaNs and signed zeros included."""
    wanted, given = tree_flatten(expected), tree_flatten(found)
    assert [path for path, _ in wanted] == [path for path, _ in given]
    for (path, a), (_, b) in zip(wanted, given):
        if isinstance(a, mx.array):
            assert isinstance(b, mx.array), path
            assert bits(a) == bits(b), f"{path}: {a} is not {b}"
        else:
            assert a == b, path


def wander(again: Callable[[], Any], runs: int = 8) -> set[str]:
    """The paths of those results of a plain program that are not the same from one run to the next: on a GPU MLX adds
    with atomics, in whatever order they come. On a CPU there are none."""
    if mx.default_device().type == mx.cpu:
        return set()
    found = [dict(tree_flatten(again())) for _ in range(runs)]
    return {
        path for path, a in found[0].items() if isinstance(a, mx.array) and len({bits(one[path]) for one in found}) > 1
    }


def assert_same_bits_or_wander(expected: Any, found: Any, again: Callable[[], Any]) -> None:
    """The same, but for what wanders when the plain program is run `again`: that is the same to three digits."""
    try:
        assert_same_bits(expected, found)
    except AssertionError:
        wandering = wander(again)
        if not wandering:
            raise
        given = dict(tree_flatten(found))
        assert given.keys() == dict(tree_flatten(expected)).keys()
        for path, a in tree_flatten(expected):
            if path in wandering:
                assert mx.allclose(a, given[path], rtol=1e-3, atol=1e-3 * mx.max(mx.abs(a)).item(), equal_nan=True), (
                    path
                )
            else:
                assert_same_bits(a, given[path])


def bits(array: mx.array) -> tuple[Any, ...]:
    """What an array is, to the bit, as NumPy reads it: not by nnrepl's own comparison, which is what is tested."""
    plain = array.view(mx.uint16) if array.dtype == mx.bfloat16 else array  # which NumPy does not know
    return array.shape, array.dtype, np.array(plain).tobytes()


def plain_and_traced(fn: Callable[..., Any], args: Sequence[Any], wrt: Any, seed: int = 7) -> tuple[Any, nnrepl.Trace]:
    """The same call in plain MLX and under nnrepl, from the same random state; asserts that value, gradients
    and the random state afterwards are identical. Returns the plain result and the trace."""
    import mlx.nn as nn

    def plainly() -> tuple[Any, Any]:
        mx.random.seed(seed)
        if wrt is None:
            return fn(*args), None
        if isinstance(wrt, nn.Module):
            return nn.value_and_grad(wrt, fn)(*args)
        return mx.value_and_grad(fn, argnums=wrt)(*args)

    plain = plainly()
    mx.eval(plain)
    after = mx.random.state[0].tolist()
    mx.random.seed(seed)
    trace = nnrepl.trace(fn, *args, wrt=wrt)
    assert mx.random.state[0].tolist() == after, "the random state went another way"
    assert_same_bits_or_wander(plain, (trace.value, trace.grads), plainly)
    return plain, trace


def loaded(path: Path, text: str) -> ModuleType:
    """Write a module, and import it from there."""
    path.write_text(text)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def nnrepl_cli(
    *arguments: str,
    stdin: str | None = None,
    cwd: Path | None = None,
    env: dict[str, str] | None = None,
    timeout: float = 120,
) -> subprocess.CompletedProcess[str]:
    """Run nnrepl in a process of its own, without a terminal."""
    surrounded, folder = {**surroundings(), **(env or {})}, cwd or ROOT
    if forked.can_run(surrounded, stdin is not None):
        return forked.run(arguments, stdin, str(folder), surrounded, timeout)
    return subprocess.run(
        [sys.executable, "-m", "nnrepl", *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        cwd=folder,
        env=surrounded,
        timeout=timeout,
    )


def surroundings() -> dict[str, str]:
    """The environment in which nnrepl is run."""
    return {**os.environ, "COLUMNS": "100", "PYTHONPATH": str(ROOT)}


def plain_python(
    *arguments: str, stdin: str | None = None, cwd: Path | None = None, timeout: float = 120
) -> subprocess.CompletedProcess[str]:
    """Run plain Python, to compare with."""
    return subprocess.run(
        [sys.executable, *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        cwd=cwd or ROOT,
        timeout=timeout,
    )


def script_python(path: Path, *, stdin: str | None = None, own_prompt: bool = False) -> str:
    """What a script prints under plain Python, in a process of its own.

    Args:
        path: The script.
        stdin: What is typed.
        own_prompt: Whether the script itself imports nnrepl; else nothing of nnrepl has been imported there.
    """
    environment = surroundings()
    if not forked.can_run(environment, stdin is not None):
        return plain_python(str(path), stdin=stdin).stdout
    prepare = forked.ALL_OF_NNREPL if own_prompt else forked.MLX_ALONE
    return forked.run((str(path),), stdin, str(path.parent), environment, 120, prepare, script=True).stdout


class OpenSession(TapeSession):
    """The debugger on what was recorded, with all that is inside of it: `nnrepl.Session` shows only what is public."""

    def __init__(self, recorded: nnrepl.Recorded) -> None:
        super().__init__(recorded.tape, recorded.names)
        if isinstance(recorded, nnrepl.Trace):
            self.changes.restarts = restarts_of(recorded)
        self.interpreter = Interpreter(self)
        remember(self.interpreter)

    def run(self, line: str) -> nnrepl.Answer:
        """Run one line of the prompt."""
        return answer(self.interpreter, line)


def assert_last_pass_is(session: OpenSession, expected: object) -> None:
    """Loss and gradient of the last pass of a session's tape, that of one argument, are what plain MLX gave."""
    pass_ = session.tape.passes[-1]
    assert pass_.loss is not None
    assert_same_bits(expected, (pass_.loss.array, pass_.given[0].array))
