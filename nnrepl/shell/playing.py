"""Playing: how the shell plays a lesson, between the student's own lines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from rich.text import Text

from nnrepl.record.intake import Unwinding
from nnrepl.record.titles import message_of
from nnrepl.session.errors import Load, UserError
from nnrepl.session.hooks import EXCEPTION, Stop
from nnrepl.shell.prompts import PROMPT
from nnrepl.shell.readers import Reader

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from nnrepl.commands.interpreter import Interpreter
    from nnrepl.learn.player import Due, Player, Turn
    from nnrepl.session.session import TapeSession


class Playing(Protocol):
    """The shell, as a lesson needs it (`nnrepl.shell.shell.Shell`, which describes these)."""

    console: Console
    interpreter: Interpreter
    reader: Reader
    quiet: bool
    failed: bool
    hushed: bool

    @property
    def session(self) -> TapeSession: ...
    def read(self, prompt: str) -> str | None: ...
    def typed(self, line: str) -> None: ...
    def run(self, line: str) -> None: ...
    def show(self, renderable: RenderableType | None) -> None: ...
    def own_failure(self, line: str, error: Exception) -> None: ...


def begins(shell: Playing, stop: Stop) -> bool:
    """Whether a lesson has the first word at a stop: it says itself what there is to see. Where its program has failed,
    it is over."""
    player = shell.interpreter.player
    if player is None or player.begun:
        return False
    if stop.reason == EXCEPTION or not len(shell.session.tape):
        _over(shell, player)
        what = f"failed{_error(stop)}" if stop.reason == EXCEPTION else "computes nothing with MLX"
        shell.failed = True
        said = f"the program of this lesson, {player.lesson.program.name}, {what}"
        player.failure = f"{player.lesson.path.name}:1: {said}"
        shell.show(Text(f"{said}: mend it, then learn {player.lesson.name}", style="error"))
        return False
    shell.interpreter.pass_over()
    shell.interpreter.shown = None
    return True


def turn(shell: Playing, player: Player) -> bool:
    """Show what comes next in a lesson, and let the student answer. Returns False at the end of input."""
    from nnrepl.view.lesson_parts import hint

    if player.queue:
        _run(shell, player, player.queue.popleft())
        return True
    shell.hushed = False
    player.links = shell.reader.screen is not None
    try:
        coming = player.turn(shell.session)
        shell.session.predicting = player.predicts(shell.session)
        _do(shell, player, coming)
        if player.waits is None or shell.interpreter.player is not player:
            return True
        return _hear(shell, player)
    except UserError as error:
        shell.failed = True
        _over(shell, player)
        player.failure = f"{_place(player)}: {error}"
        shell.show(Text(player.failure, style="error"))
        shell.show(hint("the lesson cannot go on here; learn again begins at its start"))
    except Unwinding:
        raise
    except Exception as error:
        _over(shell, player)
        player.failure = f"{_place(player)}: {type(error).__name__}: {message_of(error)}"
        shell.own_failure(player.failure, error)
    return True


def _error(stop: Stop) -> str:
    """`: ValueError: boom`, in one line."""
    if stop.error is None:
        return ""
    return f": {type(stop.error).__name__}: {message_of(stop.error)}".splitlines()[0][:200]


def _over(shell: Playing, player: Player) -> None:
    """Note that the lesson has the word no longer."""
    shell.interpreter.player = None
    shell.session.predicting = False
    if player.native:
        shell.session.settings["native"] = player.native


def _place(player: Player, back: int = 0) -> str:
    parts = player.lesson.parts
    at = min(max(player.at + back, 0), len(parts) - 1)
    return f"{player.lesson.path.name}:{parts[at].line}"


def _run(shell: Playing, player: Player, due: Due) -> None:
    """Run a line of the lesson's as if it had been typed."""
    shell.hushed = due.hushed
    if not due.hushed:
        shell.typed(PROMPT + due.line)
    before, shell.failed = shell.failed, False
    shell.session.predicting = player.predicts(shell.session)
    shell.run(due.line)
    if shell.failed:
        said = shell.interpreter.log.last()
        player.failure = f"{_place(player, -1)}: {due.line}: {said}"
    shell.failed |= before


def _hear(shell: Playing, player: Player) -> bool:
    try:
        line = shell.read(player.prompt)
    except KeyboardInterrupt:
        return True
    except UnicodeDecodeError:
        shell.show(Text("this line is not text in UTF-8", style="error"))
        return True
    seen = shell.reader.screen is None and not shell.reader.echoes
    if line is not None and not seen and not shell.quiet:
        shell.typed(player.prompt + line.strip())
    if line is not None and line.strip():
        shell.interpreter.log.said(player.prompt + line.strip())
    heard = player.hear(shell.session, line)
    _do(shell, player, heard)
    if heard.over and line is None:
        if shell.session.running:
            shell.session.quit()
        return False
    return True


def _do(shell: Playing, player: Player, coming: Turn) -> None:
    from nnrepl.view.lesson_parts import hint

    if coming.back:
        _put_back(shell, player)
    if coming.clear and coming.show and shell.console.is_terminal and shell.reader.screen is None:
        shell.console.clear()
    if coming.show:
        shell.interpreter.log.typed("")
    for shown in coming.head:
        shell.show(shown)
    if coming.where:
        shell.show(shell.interpreter.show_stop())
        shell.show(Text(""))
    for shown in coming.show:
        shell.show(shown)
    if coming.over:
        note = "" if player.at >= len(player.lesson.parts) else player.kept()
        shell.show(hint(note) if note else None)
        _over(shell, player)
    if coming.own is not None:
        shell.session.predicting = False
        shell.run(coming.own)


def _put_back(shell: Playing, player: Player) -> None:
    """Back to where the lesson stands, however far the student has gone. Raises Load where only a new start leads
    there."""
    from nnrepl.view.lesson_parts import hint

    shell.interpreter.go_home()
    if player.stands(shell.session):
        player.strayed = False
    elif player.put_back(shell.session):
        shell.interpreter.pass_over()
        shell.interpreter.shown = None
        shell.show(hint("back where the lesson was"))
    else:
        player.catch_up()
        raise Load(player.script())
