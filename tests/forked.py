"""Forked: `python -m nnrepl` without importing it anew each time, which is two thirds of the time of a short session.

A process that has imported all of nnrepl, and nothing else, waits for requests; each runs in a fork of it, with
standard streams, environment, arguments and working directory of its own, to the end of its interpreter: the finalizers
of the program are called. Only what the process that waits had imported is not taken apart once more, which took as
long as a short session: a fork that ends in good order is gone when Python comes to clear `sys`. nnrepl itself imports
all of itself before a program begins where the program's files are called as modules that it would import later
(`nnrepl.programs.shadows`), so a program cannot tell but by `sys.modules`; that nothing is imported before it is used
is what `test_start` and the tests in terminals see, in fresh processes. A second such process, in which nothing of
nnrepl has been imported, is there for scripts in plain Python (`tests.support.script_python`).

What Python or MLX read when they start has to be what that process had; else, or where `NNREPL_THOROUGH` is set, or
coverage is measured, or there is no Linux, a process is started as usual (`tests.support.nnrepl_cli`).
"""

from __future__ import annotations

import atexit
import marshal
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from threading import Thread
from typing import Any

from tests.thorough import THOROUGH

_SERVER = """
def serve(replies, prepare):
    import atexit, gc, marshal, os, runpy, sys
    status = []
    class Last:
        leave = os._exit
        def __del__(self):
            self.leave(*status)
    def end():
        try:
            for stream in {sys.stdout, sys.stderr} - {None}:
                stream.closed or stream.flush()
        except Exception:
            status.clear()
        if status:
            sys.modules.update({name: None for name, module in before.items() if sys.modules.get(name) is module})
            sys.__dict__["last"] = Last()
    atexit.register(end)
    gc.disable()
    exec(prepare, {})
    before = {name: module for name, module in sys.modules.items() if name not in ("__main__", "builtins", "sys")}
    gc.freeze()
    gc.enable()
    while size := os.read(0, 8):
        wanted, said = int.from_bytes(size, "big"), b""
        while len(said) < wanted:
            said += os.read(0, wanted - len(said))
        pid = os.fork()
        if pid:
            os.write(replies, os.waitpid(pid, 0)[1].to_bytes(8, "big"))
            continue
        script, arguments, folder, environment, *streams = marshal.loads(said)
        for number, path in enumerate(streams):
            opened = os.open(path, os.O_WRONLY if number else os.O_RDONLY)
            os.dup2(opened, number)
        os.write(replies, os.getpid().to_bytes(8, "big"))
        os.closerange(3, 256)
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(environment)
        main = sys.modules["__main__"].__dict__
        for name in [name for name in main if not name.startswith("__")]:
            del main[name]
        try:
            if not script:
                sys.argv = ["-m", *arguments]
                sys.orig_argv = [sys.executable, "-m", "nnrepl", *arguments]
                sys.path[0] = folder
                runpy._run_module_as_main("nnrepl")
            if "nnrepl" in sys.modules:
                gc.unfreeze()
            sys.modules["__main__"] = made = type(sys)("__main__")  # not set aside: it is collected with what it holds
            made.__dict__.update(main)
            main = made.__dict__
            sys.argv, sys.path[0], main["__file__"] = list(arguments), os.path.dirname(arguments[0]), arguments[0]
            with open(arguments[0], "rb") as file:
                exec(compile(file.read(), arguments[0], "exec"), main)
            status.append(0)
        except SystemExit as said:
            if said.code is None or isinstance(said.code, int):
                status.append(said.code or 0)
            raise
        return
"""
_OWN_VARIABLES = "type(serve)(serve.__code__, {'__name__': 'server', '__builtins__': __builtins__})"
"""`serve` by itself: what outlives the program must not hold the variables of `__main__`, which are the program's."""
ALL_OF_NNREPL = """
import nnrepl.cli  # first: what it finds imported is the program's
import contextlib, importlib, pkgutil
for found in pkgutil.walk_packages(nnrepl.__path__, "nnrepl."):
    if not found.name.endswith("__main__") and "._examples" not in found.name:
        module = importlib.import_module(found.name)
        for made in [made for made in vars(module).values() if isinstance(made, type)]:
            if getattr(made.__init__, "__module__", None) == "nnrepl.classes":
                with contextlib.suppress(TypeError, AttributeError):
                    made.__init__(None)  # which is written now
nnrepl.late.late("platform")
nnrepl.record.intercept._standing_in()  # which is made once in a process
"""
MLX_ALONE = "import mlx.core, mlx.nn, mlx.optimizers"
"""What a process that waits has imported: for nnrepl, and for scripts in plain Python."""
_READ_AT_START = ("PYTHON", "LC_", "LANG", "MLX_", "LD_", "OMP_", "OPENBLAS_", "MKL_", "TZ", "COV")


def can_run(environment: dict[str, str], own_input: bool) -> bool:
    """Whether a fork is what a fresh process would be."""
    if THOROUGH or sys.platform != "linux" or any(name.startswith("COV") for name in environment):
        return False
    return at_start(environment) == server(ALL_OF_NNREPL).environment and (own_input or not os.isatty(0))


def at_start(environment: dict[str, str]) -> dict[str, str]:
    """What Python, MLX and the C library read when a process starts."""
    return {name: value for name, value in environment.items() if name.startswith(_READ_AT_START)}


class Server:
    """The process that waits.

    Args:
        prepare: What it runs first.
    """

    def __init__(self, prepare: str) -> None:
        from tests.support import surroundings

        everything = surroundings()
        self.environment = at_start(everything)
        self._replies, theirs = os.pipe()
        self._process = subprocess.Popen(
            [sys.executable, "-c", f"{_SERVER}\n{_OWN_VARIABLES}({theirs}, {prepare!r})"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, pass_fds=[theirs], env=everything,
        )  # fmt: skip
        os.close(theirs)
        atexit.register(self._process.communicate)

    def ask(self, request: tuple[Any, ...]) -> int:
        """Have a program run. Returns its process when its streams are its own."""
        asked = marshal.dumps(request)
        assert self._process.stdin is not None
        self._process.stdin.write(len(asked).to_bytes(8, "big") + asked)
        self._process.stdin.flush()
        return self.answer()

    def answer(self) -> int:
        """Return the next number that the server says: of a process, then what it ended with."""
        said = os.read(self._replies, 8)
        assert said, f"the process that is forked has ended: {self._process.communicate()[1].decode()}"
        return int.from_bytes(said, "big")


@cache
def server(prepare: str) -> Server:
    """Return the process that waits; it ends when this one does."""
    return Server(prepare)


def run(
    arguments: tuple[str, ...],
    stdin: str | None,
    folder: str,
    environment: dict[str, str],
    timeout: float,
    prepare: str = ALL_OF_NNREPL,
    script: bool = False,
) -> subprocess.CompletedProcess[str]:
    """Run nnrepl (or a script in plain Python) in a fork, as `subprocess.run` does in a fresh process."""
    served = server(prepare)
    ours: dict[int, int] = {}
    theirs = [0 if stdin is None else -1, -1, -1]
    for number in range(stdin is None, 3):
        reads, writes = os.pipe()
        theirs[number], ours[number] = (writes, reads) if number else (reads, writes)
    streams = [f"/proc/{os.getpid()}/fd/{one}" for one in theirs]
    pid = served.ask((script, arguments, folder, environment, *streams))
    for one in theirs[stdin is None :]:
        os.close(one)
    said = {1: b"", 2: b""}

    def read(number: int) -> None:
        with open(ours[number], "rb") as end:
            said[number] = end.read()

    def write() -> None:
        with suppress(BrokenPipeError), open(ours[0], "wb") as end:
            end.write((stdin or "").encode())

    works: list[tuple[Callable[..., None], tuple[int, ...]]] = [(read, (1,)), (read, (2,))]
    works += [(write, ())] if stdin is not None else []
    threads = [Thread(target=work, args=given, daemon=True) for work, given in works]
    for thread in threads:
        thread.start()
    late = _joined(threads, timeout)
    if late:
        os.kill(pid, signal.SIGKILL)
        _joined(threads, 5)
    status = os.waitstatus_to_exitcode(served.answer())
    shown = [said[number].decode().replace("\r\n", "\n").replace("\r", "\n") for number in (1, 2)]
    command = [sys.executable, *([] if script else ["-m", "nnrepl"]), *arguments]
    if late:
        raise subprocess.TimeoutExpired(command, timeout, *shown)
    return subprocess.CompletedProcess(command, status, *shown)


def _joined(threads: list[Thread], timeout: float) -> bool:
    """Wait for all of them. Returns whether one is late."""
    for thread in threads:
        thread.join(timeout)
    return any(thread.is_alive() for thread in threads)
