"""The command line: arguments, program, session, shell."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlx.core as mx

from nnrepl._version import VERSION
from nnrepl.commands import load_all
from nnrepl.commands.blocks import in_file
from nnrepl.commands.interpreter import Interpreter
from nnrepl.commands.learning import play
from nnrepl.commands.table import TABLE
from nnrepl.late import late
from nnrepl.programs.debuggee import Debuggee
from nnrepl.programs.examples import example_path
from nnrepl.programs.exceptions import exit_status
from nnrepl.programs.script import USAGE_ERROR, CannotLoad, Script, empty_script, load_module, load_script, read_script
from nnrepl.record.names import ProgramNames
from nnrepl.session.errors import Quit, UserError
from nnrepl.session.saved_stops import Keeper, stops_file
from nnrepl.session.session import TapeSession
from nnrepl.session.settings import config_directory, config_file, load_settings
from nnrepl.shell.consoles import make_console
from nnrepl.shell.readers import Chain, Queue, Reader
from nnrepl.shell.shell import Shell, is_capable, make_reader
from nnrepl.timeline.history import parse_size
from nnrepl.timeline.typed_cells import make_cell

if TYPE_CHECKING:
    from nnrepl.learn.player import Player


def parser() -> argparse.ArgumentParser:
    """Return what the command line accepts."""
    made = argparse.ArgumentParser(
        prog="nnrepl",
        description="A time-travel debugger for neural networks in MLX.",
        usage="nnrepl [options] [PROGRAM [ARG ...]] | nnrepl [options] -m MODULE [ARG ...] | nnrepl learn [LESSON]",
    )
    made.add_argument("-m", dest="module", metavar="MODULE", help="run a module as python -m does")
    made.add_argument(
        "-c", dest="commands", metavar="COMMAND", action="append", default=[], help="run a command at the first stop"
    )
    made.add_argument(
        "-x",
        dest="files",
        metavar="FILE",
        action="append",
        default=[],
        help="run the commands, or the Python, in a file",
    )
    made.add_argument(
        "--call", metavar="STATEMENT", action="append", default=[],
        help="what to do when the program has run; stop before its first op (also right after PROGRAM)",
    )  # fmt: skip
    made.add_argument("--empty", action="store_true", help="no program: type one, with mx, nn and optim at hand")
    made.add_argument("--batch", action="store_true", help="end after the given commands; show only what they show")
    made.add_argument("--stop-at-entry", action="store_true", help="stop at the very first op")
    made.add_argument("--tui", action="store_true", help="use the whole screen, as the command tui does")
    made.add_argument("--plain", action="store_true", help="no colours, no control codes, a plain prompt")
    made.add_argument("--theme", choices=("dark", "light"), help="colours for a dark or light terminal")
    made.add_argument("--history", metavar="SIZE", type=size, help="memory for old values, such as 500M")
    made.add_argument("--version", action="version", version=f"{versions()} · {machine()}")
    made.epilog = (
        "PROGRAM is a script, a notebook, - for standard input, or a tape that save wrote (.safetensors); without "
        "one, the built-in example. ARG are its own arguments; after -- all are, --call too."
    )
    return made


def size(text: str) -> int:
    """Return a size in bytes, for argparse."""
    try:
        return parse_size(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no size such as 500M or 2G") from None


def machine() -> str:
    """Return the Python and the machine, for a report."""
    platform = late("platform")
    return f"Python {platform.python_version()} · {platform.system()} {platform.machine()}"


def versions() -> str:
    """`nnrepl 0.2.0 · mlx 0.32.4 on cpu`."""
    mlx: str = mx.__version__  # type: ignore[attr-defined]  # its stubs do not know it
    return f"nnrepl {VERSION} · mlx {mlx} on {mx.default_device().type.name}"


def load(options: argparse.Namespace) -> Script:
    """Return the program that the command line names. Raises CannotLoad."""
    if options.module is not None:
        return load_module(options.module, options.args)
    if options.empty:
        return empty_script()
    if options.program == "-" and (sys.stdin is None or not sys.stdin.isatty()):
        return read_script(options.args)
    if options.program == "-":
        return empty_script()
    if options.program is None:
        return load_script(str(example_path()), [])
    return load_script(options.program, options.args)


def given_lines(options: argparse.Namespace) -> list[str]:
    """Return the lines of `-x` files and `-c` commands, in this order. Raises CannotLoad."""
    lines: list[str] = []
    for name in options.files:
        lines.extend(lines_in(Path(name)))
    return lines + list(options.commands)


def call_of(options: argparse.Namespace) -> str:
    """Return the statements that are to be run after the program, as one cell. Raises CannotLoad."""
    text = "\n".join(options.call)
    try:
        if options.call:
            make_cell(1, text)
    except (SyntaxError, ValueError) as error:
        raise CannotLoad(f"--call {text!r} does not parse: {getattr(error, 'msg', error)}") from None
    return text


def lines_in(path: Path) -> list[str]:
    """Return the commands and the Python in a file. Raises CannotLoad."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text in UTF-8"
        raise CannotLoad(f"cannot read {path}: {reason}") from None
    return in_file(text, path.name, TABLE)


def main(arguments: list[str] | None = None) -> int:
    """Run nnrepl. Returns the exit status: 2 for a wrong command line, else the program's own."""
    from nnrepl.programs.arrays import SUFFIX

    load_all()
    own, program = split_arguments(sys.argv[1:] if arguments is None else arguments)
    options = parser().parse_args(own)
    if program[:1] == ["learn"] and not Path("learn").exists():
        return learn(options, program[1:])
    options.program, options.args = (program[0], program[1:]) if program else (None, [])
    try:
        if options.batch and not options.commands and not options.files:
            raise CannotLoad("--batch runs given commands: add -c COMMAND (such as -c continue) or -x FILE")
        needs_terminal(options)
        lines = given_lines(options)
        options.call = call_of(options)
        if options.module is None and (options.program or "").endswith(SUFFIX):
            return look(options, lines)
        script = load(options)
    except (CannotLoad, UserError) as error:
        print(f"nnrepl: {error}", file=sys.stderr)
        return error.status if isinstance(error, CannotLoad) else USAGE_ERROR
    return Debugger(options, script, lines).run()


def needs_terminal(options: argparse.Namespace) -> None:
    """Take the full screen as the user's face. Raises CannotLoad where there is none."""
    if options.tui and (options.batch or options.plain or not is_capable()):
        raise CannotLoad("--tui needs a terminal, and neither --batch nor --plain")


def learn(options: argparse.Namespace, words: list[str]) -> int:
    """Do what `nnrepl learn ...` says: play a lesson, list them, check one, write one. Returns the exit status."""
    from nnrepl.shell.lessons import lessons_parser, without_playing

    wanted = lessons_parser().parse_args(words)
    options.call, options.args, options.module = "", [], None
    options.tui |= wanted.tui
    console = make_console(options.plain, options.theme or "dark")
    try:
        player = without_playing(wanted, console)
        if isinstance(player, int):
            return player
        needs_terminal(options)
        script = player.script()
    except (CannotLoad, UserError) as error:
        print(f"nnrepl: {error}", file=sys.stderr)
        return USAGE_ERROR
    options.program = str(player.lesson.program)
    return Debugger(options, script, list(options.commands), player).run()


def look(options: argparse.Namespace, lines: list[str]) -> int:
    """Look at a saved tape, without its program. Returns the exit status. Raises UserError."""
    if options.args or options.call:
        raise UserError(f"{options.program} is a saved tape; it takes no arguments, and nothing can be called")
    from nnrepl.programs.saved import open_session
    from nnrepl.view.saved_file import facts_text

    session, facts = open_session(options.program)
    settings, notes = settings_of(options)
    session.settings.update(settings)
    banner = "\n".join([f"{versions()} · {facts_text(facts).plain} · help for more", *notes])

    def reader(interpreter: Interpreter) -> Reader:
        return reader_of(interpreter, options, Queue(lines), options.program)

    console = make_console(options.plain, settings.get("theme", "dark"))
    shell = Shell(session, console, reader, banner, options.batch)
    shell.interpreter.full_screen = options.tui
    if not options.batch:
        shell.catch_interrupts()
    try:
        shell.interact()
    except Quit:
        pass
    return int(shell.failed and not is_interactive(options))


def settings_of(options: argparse.Namespace) -> tuple[dict[str, Any], list[str]]:
    """Return the user's settings, those given on the command line first, and what is to be said of them."""
    from nnrepl.shell.background import theme_of_terminal

    settings, notes = load_settings(config_file())
    given = {"theme": options.theme, "history": options.history}
    settings.update({name: value for name, value in given.items() if value is not None})
    if "theme" not in settings and is_interactive(options):
        settings["theme"] = theme_of_terminal()
    return settings, notes


def is_plain(options: argparse.Namespace) -> bool:
    """Whether there is no terminal to talk to, or none that should be used."""
    return options.plain or any(stream is None or not stream.isatty() for stream in (sys.stdin, sys.stdout))


def is_interactive(options: argparse.Namespace) -> bool:
    """Whether a user sits at a terminal."""
    return not (is_plain(options) or options.batch)


def reader_of(interpreter: Interpreter, options: argparse.Namespace, given: Queue, program: str) -> Reader:
    """Return the lines that were given on the command line, then those that are typed."""
    readers: list[Reader] = [given]
    if not options.batch:
        readers.append(make_reader(interpreter, is_plain(options), program))
    return Chain(readers)


def split_arguments(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Where nnrepl's own options end: at the program, or at `-m MODULE`; everything after is the program's, but for
    `--call STATEMENT` right there."""
    own, program = _split(arguments)
    if arguments[len(own) : len(own) + 1] == ["--"]:
        return own, program
    while program[1:2] == ["--call"] and len(program) > 2:
        own, program = [*own, f"--call={program[2]}"], [program[0], *program[3:]]
    return own, program


def _split(arguments: list[str]) -> tuple[list[str], list[str]]:
    at = 0
    while at < len(arguments):
        word = arguments[at]
        if word == "--":
            return arguments[:at], arguments[at + 1 :]
        if word == "-m" or (word.startswith("-m") and not word.startswith("--")):
            end = at + (2 if word == "-m" else 1)
            return arguments[:end], ["-m", *arguments[end:]]
        if word in ("-c", "-x", "--call", "--theme", "--history"):
            at += 2
        elif word.startswith("-") and word != "-":
            at += 1
        else:
            return arguments[:at], arguments[at:]
    return arguments, []


class Debugger:
    """One run of nnrepl on one program: a session, a shell, and the program under them."""

    def __init__(
        self, options: argparse.Namespace, script: Script, lines: list[str], player: Player | None = None
    ) -> None:
        self.options = options
        self.script = script
        self.player = player
        self.is_interactive = is_interactive(options)
        self.settings, self.notes = settings_of(options)
        self.console = make_console(options.plain, self.settings.get("theme", "dark"))
        own = [] if options.batch or player is not None else self._startup()
        self.queue = Queue(own + lines)

    def run(self) -> int:
        """Until the user has had enough. Returns the exit status."""
        names = ProgramNames()
        session = TapeSession(names.tape, names)
        session.settings.update(self.settings)
        options = self.options
        debuggee = Debuggee(
            self.script, session, at_entry=options.stop_at_entry, reads_input=options.batch, call=options.call
        )
        shell = self._shell(session)
        try:
            error = debuggee.run()
        except Quit:
            error = session.course.error
        shell.cursor_moved(len(session.tape))
        status = exit_status(error)
        return status or int(shell.failed and not self.is_interactive)

    def _shell(self, session: TapeSession) -> Shell:
        """Return the shell that gives the user the floor."""
        keeper = Keeper(session.stops, stops_file(self.script.path))
        session.on_load = lambda path: keeper.move(stops_file(path)) if self.is_interactive else ""
        restored = keeper.restore() if self.is_interactive else ""
        shell = Shell(session, self.console, self._reader, self._banner(restored), self.options.batch)
        shell.interpreter.full_screen = self.options.tui
        if self.player is not None:
            play(shell.interpreter, self.player)
        if self.is_interactive:
            shell.after_line = keeper.save
        if not self.options.batch:
            shell.catch_interrupts()
        return shell

    def _startup(self) -> list[str]:
        """Return the commands that a user wants at the beginning of each session."""
        path = config_directory() / "startup"
        try:
            return lines_in(path) if path.exists() else []
        except (CannotLoad, OSError) as error:
            self.notes.append(str(error))
            return []

    def _reader(self, interpreter: Interpreter) -> Reader:
        return reader_of(interpreter, self.options, self.queue, self.script.path)

    def _banner(self, restored: str) -> str:
        said = (*self.script.notes, *self.notes, *([restored] if restored else []))
        notes = "".join(f"\n{note}" for note in said)
        if self.player is not None:
            return f"{versions()}{notes}"
        begin = "type Python, help for more" if self.options.empty else "step to begin, help for more"
        if self.options.program is None and self.options.module is None and not self.options.empty:
            return f"{versions()} · examples/{example_path().name}\nlearn for a lesson, {begin}{notes}"
        return f"{versions()} · {_short(self.script.title)} · {begin}{notes}"


def _short(title: str) -> str:
    """Return a path from where one stands, if that is shorter."""
    if not os.path.isabs(title):
        return title
    return min(title, os.path.relpath(title), key=len)


if __name__ == "__main__":
    sys.exit(main())
