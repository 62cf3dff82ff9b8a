"""Faces: how the things of the public API show themselves: as text, on any rich console, and in a notebook."""

from __future__ import annotations

import io
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.segment import Segment
from rich.text import Text

from nnrepl.programs.function import Recorded
from nnrepl.record.recorder import current
from nnrepl.record.titles import message_of
from nnrepl.record.verify import Receipt
from nnrepl.seen.stop_facts import scene
from nnrepl.session.hooks import Stop
from nnrepl.tape import SKIPPED, Op, OpSequence, Pass, Value, own_site
from nnrepl.timeline.evaluation import evaluate, pending
from nnrepl.view.glyphs import encodable, harmless, without_codes
from nnrepl.view.html import boxed, picture, rendered
from nnrepl.view.one_op import leaf_text, op_line
from nnrepl.view.op_list import op_table
from nnrepl.view.outline import outline_html, outline_of, outline_view
from nnrepl.view.receipt import receipt_view
from nnrepl.view.said import WIDTH, Answer
from nnrepl.view.source_lines import Marked, own_source
from nnrepl.view.stopped import heading, stop_view
from nnrepl.view.tensor import dtype_text, shape_text, tensor
from nnrepl.view.theme import THEMES

PEEK = 4096
"""A result is shown with an op if no more elements than these have to be computed for it."""
LISTED = 100
"""So many ops are listed in plain text."""


class Faces:
    """Draws everything that has a face."""

    def text(self, thing: Any) -> str:
        """As plain text, as wide as the terminal, or 100 columns where there is none."""
        stdout = sys.stdout
        terminal = stdout is not None and not getattr(stdout, "closed", False) and stdout.isatty()
        width = shutil.get_terminal_size((WIDTH, 24)).columns if terminal else WIDTH
        with muted():
            return encodable(text_of(self._drawn(thing), width), getattr(stdout, "encoding", None) or "utf-8")

    def html(self, thing: Any) -> str:
        """As HTML for a notebook."""
        with muted():
            if isinstance(thing, (Recorded, Pass)):
                return outline_html(outline_of(_passes(thing)))
            if isinstance(thing, Value):
                return boxed(rendered(value_view(thing)), "" if thing.refusal else picture(thing.array))
            return boxed(rendered(self._drawn(thing))) if not isinstance(thing, Answer) or thing else ""

    def segments(self, thing: Any, console: Console, options: ConsoleOptions) -> Iterator[Segment]:
        """As the pieces that rich prints, whatever styles its console knows."""
        theme = thing.theme if isinstance(thing, Answer) else "dark"
        own = _console(options.max_width, theme, console.color_system, console.no_color)
        with muted():
            yield from list(without_codes(own.render(self._drawn(thing), own.options.update(height=None))))

    def _drawn(self, thing: Any) -> RenderableType:
        for kind, draw in _DRAWN.items():
            if isinstance(thing, kind):
                return draw(thing)
        return Text(repr(thing))


def text_of(renderable: RenderableType, width: int = WIDTH) -> str:
    """Return what rich renders, as plain text in so many columns."""
    console = _console(width, "dark", None, True)
    lines = Segment.split_lines(console.render(renderable, console.options.update(height=None)))
    shown = ["".join(piece.text for piece in line if not piece.control).rstrip() for line in lines]
    return harmless("\n".join(shown).rstrip("\n"))


def muted() -> AbstractContextManager[None]:
    """While something is drawn, nothing is recorded."""
    recorder = current()
    return nullcontext() if recorder is None else recorder.muted()


def _console(width: int, theme: str, colours: Any, no_colour: bool) -> Console:
    return Console(
        file=io.StringIO(), width=max(width, 1), theme=THEMES[theme], highlight=False, markup=False, emoji=False,
        force_terminal=colours is not None, force_jupyter=False, color_system=colours, no_color=no_colour,
    )  # fmt: skip


# -- what each looks like ----------------------------------------------------------------------------------------


def _passes(thing: Recorded | Pass) -> list[Pass]:
    return [thing] if isinstance(thing, Pass) else list(thing.tape.passes)


def value_view(value: Value) -> RenderableType:
    """Return a tensor (computed, if it was not), and where it comes from."""
    if value.refusal:
        head = Text(f"{value.name} {shape_text(value.shape)} {dtype_text(value.dtype)}", style="value.shape")
        return Group(head, Text(value.refusal, style="hint"), _origin(value))
    evaluate([value])
    return Group(tensor(value.name, value.array), _origin(value))


def _origin(value: Value) -> RenderableType:
    op = value.op
    if op is None:
        return Text(leaf_text(value), style="hint")
    return Group(*_source(op), op_line(op))


def _source(op: Op) -> list[RenderableType]:
    site = own_site(op)
    if site is None:
        return []
    return [heading(op, SKIPPED), Marked(*own_source(op, SKIPPED))]


def op_view(op: Op) -> RenderableType:
    """Return an op, its line in the program, and what it gives where that is there or small."""
    parts: list[RenderableType] = [*_source(op), op_line(op)]
    if op.error is not None:
        return Group(*parts, Text(f"{type(op.error).__name__}: {message_of(op.error)}", style="error"))
    for value in op.outputs[:4]:
        if value.refusal:
            parts.append(Text(f"{value.name}: {value.refusal}", style="hint"))
        elif not value.evaluated and pending([value], PEEK) is None:
            said = f"{value.name} {shape_text(value.shape)} {dtype_text(value.dtype)}"
            parts.append(Text.assemble((said, "value.shape"), ("  not computed yet", "hint")))
        else:
            evaluate([value])
            parts.append(tensor(value.name, value.array))
    return Group(*parts)


def _ops_view(ops: OpSequence) -> RenderableType:
    shown = list(ops[:LISTED])
    table = op_table(shown, -1, len(ops) + 1)
    left = len(ops) - len(shown)
    return Group(table, Text(f"… and {left:,} more", style="hint")) if left else table


def _stop_view(stop: Stop) -> RenderableType:
    session = stop.session
    if session is None:
        return Text(repr(stop))
    if session.cursor == stop.position and session.stop == stop:
        return stop_view(scene(session, stop))
    ops = session.tape.ops
    line = op_line(ops[stop.position]) if stop.position < len(ops) else Text("after the last op")
    return Group(Text(stop.reason, style="heading"), line) if stop.reason else line


_DRAWN: dict[type, Callable[[Any], RenderableType]] = {
    Answer: lambda answer: answer.renderable if answer else Text("", end=""),
    Op: op_view,
    Value: value_view,
    OpSequence: _ops_view,
    Recorded: lambda thing: outline_view(outline_of(_passes(thing))),
    Pass: lambda thing: outline_view(outline_of(_passes(thing))),
    Receipt: receipt_view,
    Stop: _stop_view,
}
