"""Cell magics: `%load_ext nnrepl` in IPython and in notebooks: `%%nnrepl` runs a cell, `%nnrepl COMMAND` asks."""

from __future__ import annotations

import ast
import inspect
import sys
from types import CodeType, FunctionType, ModuleType
from typing import Any

from nnrepl.programs.debuggee import Debuggee
from nnrepl.programs.script import Script
from nnrepl.record.names import ProgramNames
from nnrepl.record.recorder import current
from nnrepl.record.segments import live_name, register_cell
from nnrepl.replay.world import World
from nnrepl.session.errors import Quit, UserError
from nnrepl.session.session import TapeSession
from nnrepl.shell.api import answer, last, remember
from nnrepl.shell.background import adopt
from nnrepl.shell.consoles import make_console
from nnrepl.shell.in_notebook import CellEnded
from nnrepl.shell.shell import Shell, make_reader
from nnrepl.view.said import Answer

_RESULT = "__nnrepl_result__"
"""Where the value of a cell's last line is kept until it is shown."""


_OVER = (
    "the cell has run to its end, and others may have used what it made: %%nnrepl above it runs it again, and there it "
    "can be changed"
)


def load_ipython_extension(shell: Any) -> None:
    """Make `%nnrepl` and `%%nnrepl` known: what `%load_ext nnrepl` calls with IPython's shell."""

    def ask(line: str) -> Answer | None:
        """Ask nnrepl about what was recorded last: `%nnrepl why loss`, `%nnrepl p z1`."""
        return run_line(line)

    def run(line: str, cell: str) -> Any:
        """Run this cell under nnrepl, up to its first forward op; `%%nnrepl COMMAND` runs that there."""
        return run_cell(shell, line, cell)

    shell.register_magic_function(ask, "line", "nnrepl")
    shell.register_magic_function(run, "cell", "nnrepl")


def run_line(line: str) -> Answer | None:
    """Run a line of the prompt on the session that was opened last. Returns what it says.

    Raises:
        UserError: With one line that says what is wrong.
    """
    interpreter = last()
    if interpreter is None:
        raise UserError("nothing has been recorded yet: run a cell with %%nnrepl, or call nnrepl.debug(fn, ...)")
    if current() is not None:
        raise UserError("a recording is going on: end it with quit first")
    if not line.strip():
        raise UserError("%nnrepl needs a command, such as %nnrepl where; %%nnrepl above a cell runs it")
    try:
        return answer(interpreter, line) or None
    except Quit:
        return None


class CellProgram(Script):
    """A cell of a live notebook as a program: it runs in the notebook's own namespace, and is put back to what it was
    before the cell where the cell runs again.

    Args:
        shell: IPython's shell.
        text: The cell.
        number: The number that IPython gives it.
    """

    def __init__(self, shell: Any, text: str, number: int) -> None:
        tree, wanted = _kept_result(ast.parse(text))
        self._filename = f"<nnrepl cell {number}>"
        register_cell(self._filename, live_name(shell), number, text)
        code: CodeType = compile(tree, self._filename, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
        if code.co_flags & inspect.CO_COROUTINE:
            raise UserError("a cell with await at its top level cannot run under %%nnrepl: await outside of it")
        super().__init__(f"cell {number}", self._filename, [sys.argv[0]], "", [code], [text])
        self._shell = shell
        self._wanted = wanted
        self._world: World | None = None
        self._before: set[str] = set()

    def run(self) -> None:
        """Run the cell in the notebook's namespace."""
        namespace = self._shell.user_ns
        for code in self._codes():
            self.loop.execute(code, namespace)

    def enter(self) -> ModuleType:
        """Put the namespace back to what it was before the first run. Returns the notebook's module."""
        namespace = self._shell.user_ns
        if self._world is None:
            self._before = set(namespace)
            code = self._code[0][0]
            self._world = World([FunctionType(code, namespace)])
        else:
            self._world.restore()
            for name in set(self._code[0][0].co_names) & (set(namespace) - self._before):
                del namespace[name]
        module: ModuleType = self._shell.user_module
        return module

    def on_disk(self, filename: str) -> str:
        """Nothing of a live notebook is on disk. Raises UserError."""
        if filename != self._filename:
            return super().on_disk(filename)
        raise UserError("this is a cell of a live notebook: change it there, and run it again")

    def result(self) -> Any:
        """Return what the last line of the cell gave, if it is an expression; once."""
        return self._shell.user_ns.pop(_RESULT, None) if self._wanted else None


def _kept_result(tree: ast.Module) -> tuple[ast.Module, bool]:
    """Return a cell whose last expression is kept, to be shown as IPython shows it."""
    if not tree.body or not isinstance(tree.body[-1], ast.Expr):
        return tree, False
    last_line = tree.body[-1]
    target = ast.copy_location(ast.Name(_RESULT, ast.Store()), last_line.value)
    tree.body[-1] = ast.copy_location(ast.Assign([target], last_line.value), last_line)
    return tree, True


def run_cell(shell: Any, line: str, cell: str) -> Any:
    """Run a cell under nnrepl: the user is asked at its first op, and at each stop. Returns what its last line gives.

    Args:
        line: Commands to run at the first stop, apart by `;;`.

    Raises:
        CellEnded: If the cell raised an exception, or was left.
    """
    if current() is not None:
        raise UserError("a recording is going on: end it with quit first")
    try:
        program = CellProgram(shell, shell.transform_cell(cell), shell.execution_count)
    except SyntaxError as error:
        raise UserError(f"this cell does not parse: {error.msg} (line {error.lineno})") from None
    names = ProgramNames()
    session = TapeSession(names.tape, names)
    notes = adopt(session.settings)
    session.settings["native"] = "off"  # once the cell is over it cannot run again: nobody could open a step
    debuggee = Debuggee(program, session, live=True)
    banner = f"nnrepl · {program.title} · step to begin, help for more{notes}"
    made = Shell(session, make_console(False), make_reader, banner)
    remember(made.interpreter)
    if line.strip():
        made.interpreter.given.append(line.strip())
    try:
        debuggee.run()
    except Quit:
        if session.running:
            raise CellEnded("nnrepl was left: the cell ends here") from None
    finally:
        made.held.give_back()
        session.close(_OVER)
    made.cursor_moved(len(session.tape))
    raised = session.failure
    if raised is not None:
        raise CellEnded(f"the cell ended with {type(raised).__name__}: {raised}")
    return program.result()
