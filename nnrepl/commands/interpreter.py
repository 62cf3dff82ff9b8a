"""Interpreter: runs one line on a session and returns what to show."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import mlx.core as mx
from rich.console import Group, RenderableType
from rich.text import Text

from nnrepl.commands import habits, load_all, looks, table
from nnrepl.commands.hints import Hints
from nnrepl.record.gradient_names import sign_of
from nnrepl.record.intake import Unwinding
from nnrepl.session import closed
from nnrepl.session.errors import NoGradient, NotYet, UserError
from nnrepl.session.hooks import CELL_DONE
from nnrepl.session.parsed import Assignment, Parsed, parse, side_by_side
from nnrepl.session.session import END_OF_PROGRAM, END_OF_TAPE, Stop, TapeSession
from nnrepl.session.typed import CELL, below_cells, kind_of, run_cell
from nnrepl.tape import Op, Value
from nnrepl.view.log import Log
from nnrepl.view.since import ShownBefore

if TYPE_CHECKING:
    from nnrepl.learn.player import Player
    from nnrepl.view.tensor import TensorStyle


class Answers:
    """What the last line that showed something has shown, to be laid out anew.

    Attributes:
        last: All of it.
    """

    def __init__(self) -> None:
        self.last: list[RenderableType] = []
        self._begins = True

    def begin(self) -> None:
        """Another line is run."""
        self._begins = True

    def showed(self, renderable: RenderableType) -> None:
        """Note that it has shown something (more)."""
        self.last = [renderable] if self._begins else [*self.last, renderable]
        self._begins = False


class Interpreter:
    """What stands between a line of text and a session.

    Attributes:
        session: Where the lines act.
        repeat: What an empty line does: the last motion, or nothing.
        shown: The op that was shown last, so that what has not changed is not repeated.
        quiet: Whether to be silent about the end of the program (`--batch`).
        full_screen: Whether the op, its source and the displays are seen all the time, beside what commands show.
        can_full_screen: Whether there is a terminal for that.
        log: What was typed and shown, kept by the shell for `export`.
        rest: What is left of a line of several commands, `s ;; p z1`: run before any other line.
        due: Lines that are run next, until the next motion: those of a breakpoint.
        line: The line that runs, or ran last.
        given: Lines that are run before those that are typed: those of a file.
        aliases: Names for lines.
        typed: The lines that were typed.
        collecting: For what lines are being collected (`commands 1` ... `end`), "" for nothing.
        player: The lesson that is being played, if one is; `left`: the one that was left with `learn stop`.
    """

    def __init__(self, session: TapeSession) -> None:
        load_all()
        self.session = self._home = session
        self.table = table.TABLE
        self.repeat = self.line = ""
        self.shown: Op | None = None
        self.quiet = False
        self.full_screen = self.can_full_screen = False
        self.log = Log()
        self.answers = Answers()
        self._hints = Hints(
            lambda word: self.session.expressions.is_tensor(word, self.session.where()), lambda: self.session
        )
        self._told: Stop | None = session.stop if session.waits else None
        self._changed = ShownBefore()
        self._listed = ("", -1, 0)
        self.due: deque[str] = deque()
        self._behind: deque[str] = deque()
        self.given: deque[str] = deque()
        self.aliases: dict[str, str] = {}
        self.typed: list[str] = []
        self._waited = False
        self._result: Any = None
        self.collecting = ""
        self._lines: list[str] = []
        self._collected: Callable[[list[str]], None] = _nothing
        self.player: Player | None = None
        self.left: Player | None = None

    def run(self, line: str) -> RenderableType | None:
        """Run one line. Returns what to show, None for nothing.

        Raises:
            UserError: With one line for the user, if it cannot be done.
            Quit, Restart: If the user wants that.
        """
        self.line = line
        if self.collecting:
            self._collect(line.strip())
            return None
        if not self._waited:
            self.session.many, self.session.openings = 1, 0
        if line.strip() and not self._waited:
            self.typed.append(line.strip())
        self._waited = False
        try:
            hint, shown = self._run(self._first(line))
        except UserError as error:
            self.due.clear()
            self._behind.clear()
            if isinstance(error, NoGradient):
                from nnrepl.explain.missing import told

                raise told(self.session, error) from None
            raise
        kept = [item for item in (shown, self.arrival()) if item is not None]
        if hint is not None:
            kept.insert(0, hint)
        return Group(*kept) if len(kept) > 1 else next(iter(kept), None)

    def _run(self, line: str) -> tuple[Text | None, RenderableType | None]:
        """Run one command. Returns what to say of how it was read, and what it shows."""
        parsed = self._classify(line)
        if parsed.kind == "empty":
            if not self.repeat:
                return None, None
            parsed = table.classify(self.repeat, self.table, self.is_name)
        self.repeat = ""
        looks.open_first(self.session, parsed.command, parsed.text)
        if parsed.command is None:
            assert parsed.parsed is not None
            return self._hints.inner(line.strip()), self.python(parsed.parsed)
        hint = self._hints.of(parsed, line.strip())
        if hint is None and parsed.command.names[0] in ("print", "explain", "what"):
            hint = self._hints.inner(parsed.text)
        shown, away = parsed.command.run(self, parsed.text), self.session is not self._home
        shown = looks.with_unseen(self.session, parsed.command, shown, away)
        if parsed.command.repeats:
            self.repeat = line.strip() or parsed.command.names[0]
        return hint, shown

    def _first(self, line: str) -> str:
        """Return the first command of a line; the others (after `;;`) are run after it, and after what a breakpoint
        has to say. Aliases are spelled out."""
        word, _, rest = line.strip().partition(" ")
        if word in self.aliases and word not in self.table:
            line = _filled(self.aliases[word], rest.strip())
        if ";;" not in line or line.lstrip().startswith("alias "):
            return line
        first, *others = re.split(r"\s*;;\s*(?=(?:[^'\"]|'[^']*'|\"[^\"]*\")*$)", line)
        self._behind.extendleft(reversed(others))
        return first

    def _classify(self, line: str) -> table.TypedLine:
        """Return a line by its syntax; what is neither command nor Python may be a habit from another debugger."""
        asked = habits.question(line.strip())
        if asked is not None and not self.is_name(line.split()[0]):
            raise UserError(asked)
        try:
            return table.classify(line, self.table, self.is_name)
        except table.DoesNotParse:
            raise
        except UserError:
            meant = habits.read_as(line.strip())
            if meant is not None:
                return table.classify(meant, self.table, self.is_name)
            answer = habits.answer(line.strip())
            if answer is not None:
                raise UserError(answer) from None
            raise

    def is_name(self, word: str) -> bool:
        """Whether the program, or the user, has something that is called so."""
        return word == "grad" or self.session.expressions.is_name(word, self.session.where())

    def waiting(self) -> str | None:
        """Return the line that is to be run before any is read; None if there is none."""
        for lines in (self.due, self._behind, self.given):
            if lines:
                self._waited = True
                return lines.popleft()
        return None

    def visit(self, session: TapeSession) -> None:
        """Look at another session, while the own one waits."""
        session.settings = self._home.settings
        self.session, self.shown = session, None

    def go_home(self) -> bool:
        """Look at the own session again. Returns False if it is the one that is looked at."""
        away = self.session is not self._home
        if away:
            self.session, self.shown = self._home, None
            self.session.arrive(self.session.cursor)
        return away

    # -- lines that belong together ------------------------------------------------------------------------

    def collect(self, what: str, finish: Callable[[list[str]], None]) -> None:
        """Take the lines that follow, up to `end`, for something else than to be run now."""
        self.collecting, self._collected, self._lines = what, finish, []

    def _collect(self, line: str) -> None:
        if line != "end":
            self._lines += [line] if line else []
            return
        self.collecting = ""
        self._collected(self._lines)

    # -- stops -------------------------------------------------------------------------------------------

    def arrival(self) -> RenderableType | None:
        """Return the picture of where the line that has been run arrived; None if the user stands where they stood, or
        the program runs on."""
        return self.show_stop() if self.session.waits and self.session.stop is not self._told else None

    def pass_over(self) -> None:
        """Take it that the user knows where they stand."""
        self._told, self.shown = self.session.stop, self.session.op

    def show_stop(self) -> RenderableType | None:
        """Return the picture of where the user stands."""
        from nnrepl.seen.stop_facts import scene
        from nnrepl.view.stopped import stop_view

        stop = self._told = self.session.stop
        self.due.clear()
        if self.quiet and not stop.missed and stop.reason in (END_OF_TAPE, END_OF_PROGRAM, CELL_DONE):
            return None
        if stop.reason == CELL_DONE and not (stop.hits or stop.missed):
            return Group(*self.displays()) if self.session.displays else None
        lines = [line for hit in stop.hits for line in hit.entry.commands]
        self.due.extend(line for line in lines if line != "silent")
        if lines[:1] == ["silent"]:
            return None
        view = stop_view(scene(self.session, stop), self.full_screen)
        self.shown = self.session.op
        return view if self.full_screen else Group(view, *self.displays())

    def displays(self, pictures: bool = False) -> list[RenderableType]:
        """Return the expressions that are shown at each stop, with what changed since the last one marked; or as
        pictures."""
        return [self.display(number, text, pictures) for number, text in self.session.displays.items()]

    def display(self, number: int, text: str, picture: bool = False) -> RenderableType:
        """One displayed expression; an error in it is one line of the stop, and no more."""
        from nnrepl.view.heatmap import Heatmap
        from nnrepl.view.tensor import TensorStyle

        label = f"{number}: {text}"
        try:
            result = self.value(parse(text))
            note = self._changed.note(number, text, result)
            if picture and isinstance(result, mx.array) and result.size > 1:
                self.counted(result)
                return Heatmap(label, result)
            look = TensorStyle(before=self._changed.before) if isinstance(result, mx.array) else None
            return self.guarded(lambda: self.shown_value(result, label, text, look, note), text) or Text(label)
        except UserError as error:
            said = str(error)
            return Text(f"{number}: {said}" if said.startswith(text) else f"{label}: {said}", style="hint")

    def list_on(self, what: str) -> int | None:
        """Where a repeated `list` or `ops` goes on; None if another was typed since, or the cursor has moved."""
        listed, cursor, end = self._listed
        return end if (listed, cursor) == (what, self.session.cursor) else None

    def listed_to(self, what: str, end: int) -> None:
        """Remember what `list` or `ops` has shown."""
        self._listed = (what, self.session.cursor, end)

    # -- expressions ---------------------------------------------------------------------------------------

    def python(self, parsed: Parsed) -> RenderableType | None:
        """Run the program's next cell, change a value of the tape, or evaluate: `session.typed` decides."""
        from nnrepl.session.statements import noticing

        session = self.session
        if kind_of(session, parsed) == CELL:
            return self.cell(parsed)
        if parsed.statements and all(map(self._changes_a_tensor, parsed.statements)):
            first, *others = parsed.statements
            self._behind.extendleft([line.text for line in reversed(others)])
            return self.python(first)
        inside = session.op is not None and session.op.inner and parsed.is_plain
        if parsed.assignment is not None and not inside and not session.changes.acts_at_once(parsed):
            shown = self.edit(parsed.assignment, parsed.text)
            if shown is not None:
                return shown
        with noticing(session, parsed) as effect:
            self._result = None
            shown = self._python(parsed)
            effect.result = self._result
        if effect.looked:
            return Group(shown or Text(""), Text(effect.kept, style="hint"))
        if not effect.changed:
            return Text(effect.idle, style="hint") if effect.idle else shown
        if below_cells(session):
            self.given.appendleft(parsed.text)
            session.resume()
            return None
        session.changes.state(parsed)
        return self.moved_in_time(self.news() or Text(""))

    def _changes_a_tensor(self, line: Parsed) -> bool:
        """Whether one of several statements changes a tensor, and no more: it stands on a timeline of its own."""
        change = line.assignment
        if change is None:
            return False
        try:
            return self.session.changes.target(change) is not None
        except UserError:
            return True

    def _python(self, parsed: Parsed) -> RenderableType | None:
        """Evaluate or execute Python that changes no value of the tape."""
        if isinstance(parsed.error, (RecursionError, MemoryError)):
            raise UserError("this is too deeply nested for Python")
        if parsed.expression is not None:
            return self.print(parsed)
        result = self.guarded(lambda: self.session.expressions.execute(parsed, self.session.where()), parsed.text)
        return self.shown_value(result, None, (parsed.statements or [parsed])[-1].text)

    def cell(self, parsed: Parsed, stop: bool = False) -> RenderableType | None:
        """Let the program go on with what was typed, to its end or only up to its first op."""
        if not parsed.is_python:
            raise table.unknown(parsed, self.table)
        try:
            run_cell(self.session, parsed.text, stop)
        except (SyntaxError, ValueError) as error:
            raise UserError(f"this does not parse: {getattr(error, 'msg', error)}") from None
        except (RecursionError, MemoryError):
            raise UserError("this is too deeply nested for Python") from None
        return None

    def edit(self, change: Assignment, line: str) -> RenderableType | None:
        """Change a value of the tape; shows the timeline that this makes, None if it is no value of the tape."""
        timeline = self.guarded(lambda: self.session.changes.assign(change, line), line)
        return None if timeline is None else self.moved_in_time(self.news() or Text(""))

    def news(self) -> RenderableType | None:
        """Return what an edit has done, once."""
        changes = self.session.changes
        taken, timeline = changes.taken, changes.news
        if not taken and timeline is None:
            return None
        from nnrepl.view.timeline_tree import below_text, news_text, taken_text

        changes.taken, changes.news = (), timeline if taken else None
        if taken or timeline is None:
            return taken_text(taken)
        below, said = below_text(changes.timelines.live), news_text(timeline, self.session.goes_on)
        return said if below is None else Group(said, below)

    def moved_in_time(self, *said: RenderableType) -> RenderableType:
        """Another tape is looked at."""
        self.shown = None
        self.session.course.rest(Stop("", self.session.cursor))
        return Group(*said)

    def print(self, parsed: Parsed, look: TensorStyle | None = None, named: bool = False) -> RenderableType:
        """Return the values of one or more expressions; tensors with their names, and all others as well if `named`."""
        shown = [self._print_one(part, named, look) for part in parsed.parts()]
        shown = [item for item in shown if item is not None]
        return Group(*shown) if len(shown) != 1 else shown[0]

    def _print_one(self, parsed: Parsed, named: bool, look: TensorStyle | None) -> Any:
        try:
            result = self.value(parsed)
        except (NotYet, NoGradient) as answer:
            return self.not_there(answer, look)
        if result is not None:
            self.session.expressions.show(result)
        label = parsed.text if named and not isinstance(result, mx.array) and parsed.speaks_of_a_name else None
        return self.guarded(lambda: self.shown_value(result, label, parsed.text, look), parsed.text)

    def not_there(self, answer: UserError, look: TensorStyle | None = None) -> RenderableType:
        """Return what is said of a name that is not made yet; the last tensor of that name under its own address."""
        from nnrepl.explain.missing import told
        from nnrepl.view.tensor import tensor

        answer = told(self.session, answer) if isinstance(answer, NoGradient) else answer
        last = answer.last if isinstance(answer, NotYet) else None
        said = Text(self._left(answer, last) or str(answer), style="hint")
        unseen = closed.closed_said(closed.unseen_since(self.session, last))
        if unseen:
            said.append(f" ({unseen}: not looked at)")
        if last is None or not isinstance(answer, NotYet):
            return said
        self.session.evaluate([last])
        return Group(said, tensor(answer.address, last.array, look))

    def _left(self, answer: UserError, last: Value | None) -> str:
        """Return what to say at the program's end of a variable whose function has returned; "" of any other."""
        name = str(answer).partition(" ")[0]
        where = "" if last is None or self.session.where().ended is None else self.session.lookup.belongs(name)
        address = answer.address if isinstance(answer, NotYet) else ""
        return f"nothing here is called {name}{where}; the last one is {address}" if where else ""

    def shown_value(
        self, result: Any, label: str | None, text: str, look: TensorStyle | None = None, note: str = ""
    ) -> RenderableType | None:
        """Return a result of Python as a user wants to see it: a tensor, a tree of tensors, anything else."""
        from nnrepl.view.tensor import samples_text, tensor
        from nnrepl.view.timeline_tree import recomputed_text
        from nnrepl.view.tree import tensor_tree

        if result is None:
            return None
        if isinstance(result, mx.array):
            value = self.session.expressions.value_of(result)
            work = self.session.evaluate(self.session.expressions.behind(result))
            shown = tensor(label or self.label(text, value), result, look, note or samples_text(value))
            return Group(shown, recomputed_text(work)) if work.again else shown
        self.session.tell_outside(self.session.expressions.used())
        tree = tensor_tree(result, "" if text[:1] in "([{" or len(text) > _LONGEST else text)
        head, tail = f"{label} = " if label else "", f"  {note}" if note else ""
        return Text(f"{head}{result!r}{tail}") if tree is None else tree

    def counted(self, array: mx.array) -> Value | None:
        """Evaluate an array that stands for a value of the tape, so that what it took is counted."""
        self.session.evaluate(self.session.expressions.behind(array))
        return self.session.expressions.value_of(array)

    def array(self, parsed: Parsed) -> tuple[str, mx.array]:
        """Return the tensor that an expression gives, and what to call it. Raises UserError for anything else."""
        result = self.value(parsed)
        if not isinstance(result, mx.array):
            raise UserError(f"{parsed.text} is no tensor, but {type(result).__name__}")
        return self.label(parsed.text, self.counted(result)), result

    def label(self, text: str, value: Value | None) -> str:
        """Return what a printed tensor is called: as it was asked for, a gradient as ∂L/∂x."""
        stripped = text.strip()
        found = self.session.expressions.found.get(stripped)
        if found is not None and (found.address or found.whose):
            return found.address if not found.whose else f"{stripped} ({found.whose})"
        if value is not None and value.gradient_of is not None and stripped.startswith("grad("):
            inner = stripped[len("grad(") : -1]
            if re.fullmatch(r"[\w.]+@[\w#]+", inner):  # the bare name may be another tensor's here
                return f"{sign_of(value)}{inner}"
            return self.session.lookup.name_here(value, self.session.cursor)
        return stripped if len(stripped) <= _LONGEST else "result"

    def value(self, parsed: Parsed) -> Any:
        """Return the value of an expression."""
        evaluate, where = self.session.expressions.evaluate, self.session.where
        self._result = self.guarded(lambda: evaluate(parsed, where()), parsed.text)
        return self._result

    def guarded(self, compute: Any, text: str) -> Any:
        """Run something of the user's; what it raises becomes one line."""
        try:
            return compute()
        except UserError:
            raise
        except SyntaxError as error:
            several = ", ".join(side_by_side(text))
            said = f"; with commas it is several expressions: {several}" if several else ""
            raise UserError(f"this does not parse: {error.msg}{said}") from None
        except Unwinding:
            raise
        except (Exception, SystemExit, GeneratorExit) as error:
            from nnrepl.commands.refused import reason  # needed where something fails

            alone = text.strip() == self.line.strip()
            raise UserError(reason(self.session, self.table, error, text, alone)) from None


_LONGEST = 40
"""So long an expression stands before its result at most."""


def _filled(line: str, rest: str) -> str:
    """Return an alias with the words after its name in it; what it does not ask for comes last."""
    words = rest.split()
    filled = re.sub(r"%([1-9])", lambda found: words[int(found[1]) - 1] if int(found[1]) <= len(words) else "", line)
    filled = filled.replace("%*", rest)
    return filled if "%" in line or not rest else f"{filled} {rest}"


def _nothing(lines: list[str]) -> None:
    """Do nothing with lines that nobody collects."""
