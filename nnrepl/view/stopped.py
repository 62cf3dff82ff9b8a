"""Stop: what is shown when the user gets the floor."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.text import Text

from nnrepl.explain.doing import label_of
from nnrepl.explain.in_place import Piece
from nnrepl.record.titles import message_of
from nnrepl.seen.stop_facts import Ahead, Scene
from nnrepl.session.hooks import CELL_DONE, CELL_FAILED, END_OF_PROGRAM, END_OF_TAPE, EXCEPTION, START_OF_TAPE
from nnrepl.tape import GRADIENT_PASS, Inside, Op, Pass, Value
from nnrepl.tape.steps import title_of
from nnrepl.view.boxed import InPlace
from nnrepl.view.defines import defined, defines_view
from nnrepl.view.one_op import value_text
from nnrepl.view.op_lines import DoingLines
from nnrepl.view.source_lines import Marked, inner_line, own_source, place_text
from nnrepl.view.stop_list import hits_view
from nnrepl.view.tensor import WHOLE, OneLine, dtype_text, samples_text, tensor


class Heading:
    """A line with something at each end: where one is in the pass, and where that stands in the source; two lines where
    there is no room.

    Args:
        left: At the left end.
        tails: What follows it, the first that fits together with something at the right end; in two lines it begins the
            second one.
        rights: At the right end: the first that fits.
    """

    def __init__(self, left: Text, tails: Sequence[Text], rights: Sequence[str]) -> None:
        self._left = left
        self._tails = tails
        self._rights = [right for right in rights if right] or [""]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width, least = options.max_width, min(map(cell_len, self._rights))
        lines = [Text.assemble(self._left, (" · ", "dim"), tail) for tail in self._tails] or [self._left.copy()]
        line = next((line for line in lines if line.cell_len + least + 2 <= width), None)
        if line is None:
            yield self._left
            under = [Text("  ").append_text(tail) for tail in self._tails] or [Text("  ")]
            line = next((line for line in under if line.cell_len + least + 2 <= width), under[-1])
            line.truncate(max(width - least - 2, 2), overflow="ellipsis")
        room = width - line.cell_len
        fits = next((right for right in self._rights if cell_len(right) + 2 <= room), self._rights[-1])
        yield line.append(" " * (room - cell_len(fits) if self._tails or line.plain.strip() else 0)).append(fits, "dim")


def heading(op: Op, skip: Sequence[str], through: str = "") -> Heading:
    """`step 1 · forward 1 of 8        simple_nn.py:31 in SimpleNN.__call__`.

    Args:
        through: What a backward op goes back through.
    """
    pass_ = op.pass_
    phase = "" if isinstance(pass_, Inside) and not pass_.differentiates else f"{op.phase} "
    left = Text(f"{title_of(op)}{in_call(pass_)}{phase}{count_text(op)}", style="heading")
    back = [through, op.of.name] if through and op.of is not None else []
    tails = [Text.assemble(("back through ", "dim"), (text, "op.name")) for text in back]
    source, _ = own_source(op, skip)
    where = place_text(source)
    inside = f" in {source.function}" if source.function and source.function != "<module>" else ""
    module = f" ({op.module})" if op.module else ""
    return Heading(left, tails, [f"{where}{inside}{module}", f"{where}{module}", f"{where}{inside}", where])


def in_call(pass_: Pass) -> str:
    """`in grad of u · `, for what happens inside of calls that MLX runs by itself; for a `vmap` with how many samples
    lie along which axis."""
    text = ""
    while isinstance(pass_, Inside):
        samples = f" ({pass_.size} samples)" if pass_.size else ""
        text = f"in {pass_.transform} of {pass_.title}{samples} · {text}"
        assert pass_.within is not None
        pass_ = pass_.within
    return text


def count_text(op: Op) -> str:
    """`3 of 8`, counted within its phase of its pass; of ops outside of gradient calls, those of its step."""
    pass_ = op.pass_
    if isinstance(pass_, Inside) and not pass_.differentiates:
        return f"{op.position - pass_.start + 1} of {len(pass_)}"
    if pass_.kind != GRADIENT_PASS:
        step = op.step
        first, end = max(pass_.start, step.start), min(pass_.end, step.end)
        number = op.position - first + 1
        return f"{number} of {end - first}" if not pass_.open else f"{number}"
    first = pass_.start if op.phase == "forward" else pass_.backward
    return f"{op.position - first + 1} of {pass_.count(op.phase)}"


def _result(value: Value) -> RenderableType:
    """`z1 = [[...]]`; of many rows a line that sums them up."""
    label = label_of(value)
    rows = math.prod(value.shape[:-1])
    if value.size <= WHOLE and rows <= ROWS:
        return tensor(label, value.array, note=samples_text(value))
    return OneLine(label, value.array)


ROWS = 6
"""Results of more rows are summed up in a line."""


def stop_view(scene: Scene, brief: bool = False) -> RenderableType:
    """Return the whole picture of a stop.

    Args:
        brief: Whether the op itself is seen elsewhere (in the full screen).
    """
    stop, here = scene.stop, scene.here
    parts: list[RenderableType] = [_result(value) for value in scene.results]
    if scene.dull:
        parts.append(Text(f"went over {', '.join(f'{op.label} {op.name}' for op in scene.dull)}", style="hint"))
    if stop.missed and stop.reason != END_OF_PROGRAM:
        parts.append(Text(stop.missed, style="warning"))
    if stop.reason == EXCEPTION and stop.error is not None:
        parts.append(Text(f"{type(stop.error).__name__}: {message_of(stop.error)}", style="error"))
    elif stop.reason in (START_OF_TAPE, END_OF_TAPE):
        parts.append(Text(f"This is the {stop.reason.split()[0]} of the tape.", style="hint"))
    elif stop.reason == END_OF_PROGRAM:
        end = _end(scene)
        parts.extend([end] if end else [])
        if scene.program is not None and scene.program.only_defines and not stop.missed:
            parts.extend(defines_view(scene.program.namespace))
    elif stop.hits:
        parts.extend(hits_view(scene.hits, stop.missed))
    elif stop.reason not in ("", "first op", CELL_DONE, CELL_FAILED):
        parts.append(Text(stop.reason, style="heading"))
    if here is not None and not brief:
        parts.extend(op_view(here))
    if here is not None and here.op.error is not None:
        parts.append(failure(here.op))
    return Group(*parts)


def op_view(here: Ahead) -> list[RenderableType]:
    """Return the op that comes next: heading, the program's own line, a library's under it, and what the op does.

    `config stop` says how much of it: "full", "values" in the line itself, "formula" without numbers, "short" without
    the source.
    """
    op, skip, found = here.op, here.skip, here.doing
    parts: list[RenderableType] = [heading(op, skip, found.through)]
    if here.amount != "short":
        source = values_view(skip, op, here.values) or Marked(*own_source(op, skip))
        inner = inner_line(op, skip)
        parts += [source] if source else []
        parts += [] if inner is None else [inner]
    parts.append(DoingLines(found))
    return parts


def values_view(skip: Sequence[str], op: Op, values: Sequence[Piece]) -> RenderableType | None:
    """Return the program's own line, and under it the same with the values in it; None where there are none."""
    source = Marked(*own_source(op, skip), is_marked=False)
    return Group(source, InPlace(values, source.indent)) if source and values else None


def failure(op: Op) -> RenderableType:
    """Return an op that raised: what it was given, and what it said."""
    text = Text()
    for value in dict.fromkeys(op.inputs):
        text.append("    ").append_text(value_text(value)).append(f" {dtype_text(value.dtype)}")
        maker = value.op
        if maker is not None:
            text.append(f"  made by {maker.label} {maker.name}", style="dim")
        text.append("\n")
    text.append(f"  {type(op.error).__name__}: {message_of(op.error)}", style="error")
    return text


def _end(scene: Scene) -> Text:
    stop, program = scene.stop, scene.program
    error = stop.error
    status = ""
    if isinstance(error, SystemExit):
        code = error.code
        status = f" (exit status {code if isinstance(code, int) else 0 if code is None else 1})"
    text = Text(f"{stop.missed}: " if stop.missed else "", style="warning")
    if program is None or not scene.empty:
        text.append(f"The program has ended{status}.", style="heading")
        text.append(" You can still go back and look around.", style="hint")
    elif defined(program.namespace):
        text.append(f"The program has ended{status}; it defines", style="heading")
    elif not program.bare:
        text.append(f"The program has ended{status}.", style="heading")
        text.append(" It did not call MLX once, so there is nothing to step through yet.", style="hint")
    return text
