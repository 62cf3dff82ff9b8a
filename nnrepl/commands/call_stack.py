"""Frames: looking around in the calls that lead to the op."""

from __future__ import annotations

from rich.console import RenderableType
from rich.text import Text

from nnrepl.commands.interpreter import Interpreter
from nnrepl.commands.looking import LOOK
from nnrepl.commands.table import COUNT, command
from nnrepl.session.errors import UserError
from nnrepl.session.session import TapeSession
from nnrepl.tape import Activation


@command("up", "u", takes=COUNT, group=LOOK)
def up(it: Interpreter, text: str) -> RenderableType | None:
    """Stand in the function that made the call: Python at the prompt sees its variables. A motion ends it.

    At a line or a function that you named (`break`, `until`, `goto`), and after `next`, you stand in it already: the op
    may come from a layer that it calls. `where` shows where you stand.
    """
    return _move(it.session, min(int(text[:6] or 1), 10**6))


@command("down", "d", takes=COUNT, group=LOOK)
def down(it: Interpreter, text: str) -> RenderableType | None:
    """Go back down, after `up`."""
    return _move(it.session, -min(int(text[:6] or 1), 10**6))


def _move(session: TapeSession, by: int) -> RenderableType:
    from nnrepl.record import segments as sources
    from nnrepl.view.source_lines import place_text

    path = _path(session)
    if not path:
        raise UserError("no function was running here")
    level = min(max(session.level + by, 0), len(path) - 1)
    if level == session.level:
        raise UserError(
            "this is the outermost function" if by > 0 else "this is the function that makes the op; up leaves it"
        )
    session.level = level
    scope, lasti = path[-1 - level]
    source = sources.locate(scope.code, lasti)
    text = Text("▶ ", style="source.current").append(f"{place_text(source)} in {source.function}", style="bold")
    return text.append(f"\n      {source.text.splitlines()[0] if source.text else ''}", style="dim")


def _path(session: TapeSession) -> list[tuple[Activation, int]]:
    """Return the calls from the outermost in, each with where it stands."""
    op = session.op_or_last
    if op is None or op.scope is None:
        return []
    path = op.scope.path()
    return list(zip(path, [*(step.lasti for step in path[1:]), op.lasti]))
