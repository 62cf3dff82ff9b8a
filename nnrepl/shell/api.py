"""API: what `import nnrepl` offers beyond the recording itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rich.console import Group, RenderableType

from nnrepl.commands.interpreter import Interpreter
from nnrepl.programs.function import Trace, trace
from nnrepl.session.errors import Quit
from nnrepl.session.session import Session as TapeSession
from nnrepl.session.settings import adopt_settings


class Session(TapeSession):
    """A person's place on a trace, to be moved by a program: `step()`, `back()`, `goto("#12")`, and `run` for
    every command of the prompt."""

    def __init__(self, trace: Trace) -> None:
        super().__init__(trace.tape, trace.names)
        self.changes.restarts = trace.restarts()
        self.interpreter = Interpreter(self)

    def run(self, line: str) -> RenderableType | None:
        """Run one line as typed at the prompt. Returns what rich can render, None if there is nothing to show.

        Raises:
            UserError: With one line that says what is wrong.
        """
        shown = [self.interpreter.run(line)]
        while (waiting := self.interpreter.waiting()) is not None:
            shown.append(self.interpreter.run(waiting))
        kept = [renderable for renderable in shown if renderable is not None]
        return Group(*kept) if len(kept) > 1 else next(iter(kept), None)


def debug(fn: Callable[..., Any], *args: Any, wrt: Any = None, **kwargs: Any) -> Trace:
    """Open the shell on one call of a function; arguments as for `trace`. Returns the trace."""
    from nnrepl.shell.shell import Shell, make_console, make_reader

    recorded = trace(fn, *args, wrt=wrt, **kwargs)
    session = Session(recorded)
    notes = adopt_settings(session.settings)
    banner = f"nnrepl · {recorded!r} · step to begin, help for more{notes}"
    shell = Shell(session, make_console(False), make_reader, banner)
    try:
        shell.interact()
    except Quit:
        pass
    return recorded
