"""Stop: what is shown when the person gets the floor."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.text import Text

from nnrepl.session.hooks import CELL_DONE, CELL_FAILED
from nnrepl.session.session import END_OF_PROGRAM, END_OF_TAPE, EXCEPTION, START_OF_TAPE, Session, Stop
from nnrepl.session.typed import only_defines
from nnrepl.tape import GRADIENT_PASS, Op, own_site
from nnrepl.view.defines import defined, defines_view
from nnrepl.view.op import op_line, value_text
from nnrepl.view.source import inner_line, marked, own_source, place_text
from nnrepl.view.stops import hits_view
from nnrepl.view.tensor import WHOLE, dtype_text, tensor, tensor_line


class Heading:
    """A line with something at each end: where one is in the pass, and where that stands in the source."""

    def __init__(self, left: Text, right: str) -> None:
        self._left = left
        self._right = right

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        line = self._left.copy()
        room = options.max_width - line.cell_len - len(self._right)
        if self._right and room >= 2:
            line.append(" " * room)
            line.append(self._right, style="dim")
        elif self._right:
            line.append("\n  " + self._right, style="dim")
        yield line


def heading(op: Op, skip: Sequence[str]) -> Heading:
    """`step 1 · forward 1 of 8        simple_nn.py:31 in SimpleNN.__call__`."""
    part = op.part
    step = f"{op.step.title} · " if part.kind != "setup" else ""
    left = Text(f"{step}{op.phase} {count_text(op)}", style="heading")
    source, _ = own_source(op, skip)
    where = place_text(source)
    module = op.module
    inside = f" in {source.function}" if source.function and source.function != "<module>" else ""
    if op.of is not None:
        return Heading(left, f"from {op.of.label}, {where}{inside}")
    return Heading(left, f"{where}{inside}" + (f" ({module})" if module else ""))


def count_text(op: Op) -> str:
    """`3 of 8`, counted within its phase of its pass; of ops outside of gradient calls, those of its step."""
    part = op.part
    if part.kind != GRADIENT_PASS:
        step = op.step
        first, end = max(part.start, step.start), min(part.end, step.end)
        number = op.position - first + 1
        return f"{number} of {end - first}" if not part.open else f"{number}"
    first = part.start if op.phase == "forward" else part.backward
    return f"{op.position - first + 1} of {part.count(op.phase)}"


def results(session: Session, stop: Stop) -> list[RenderableType]:
    """What the ops that were just gone over produced, where it is small."""
    shown: list[RenderableType] = []
    for op in stop.passed[-1:]:
        values = [value for value in op.outputs if value.held is not None]
        if not values or not session.small(values):
            continue
        session.evaluate(values)
        for value in values[:4]:
            label = f"{op.label}" if len(op.outputs) == 1 else f"{op.label}.{value.slot}"
            shown.append(tensor(label, value.array) if value.size <= WHOLE else tensor_line(label, value.array))
    return shown


def stop_view(session: Session, stop: Stop, previous: Op | None = None, brief: bool = False) -> RenderableType:
    """The whole picture of a stop.

    Args:
        previous: The op that was shown at the stop before: what has not changed since is not repeated.
        brief: Whether the op itself is seen elsewhere (in the full screen).
    """
    parts: list[RenderableType] = list(results(session, stop))
    op = session.op
    if stop.missed and stop.reason != END_OF_PROGRAM:
        parts.append(Text(stop.missed, style="warning"))
    if stop.reason == EXCEPTION and stop.error is not None:
        parts.append(Text(f"{type(stop.error).__name__}: {stop.error}", style="error"))
    elif stop.reason in (START_OF_TAPE, END_OF_TAPE):
        parts.append(Text(f"This is the {stop.reason.split()[0]} of the tape.", style="hint"))
    elif stop.reason == END_OF_PROGRAM:
        end = _end(session, stop)
        parts.extend([end] if end else [])
        if session.debuggee is not None and only_defines(session.tape) and not stop.missed:
            parts.extend(defines_view(session.debuggee.namespace))
    elif stop.hits:
        parts.extend(hits_view(session, stop))
    elif stop.reason not in ("", "first op", CELL_DONE, CELL_FAILED):
        parts.append(Text(stop.reason, style="heading"))
    if op is not None and not brief:
        parts.extend(op_view(op, previous, bool(parts), session.skip, bool(stop.passed)))
    if op is not None and op.error is not None:
        parts.append(failure(op))
    return Group(*parts)


def op_view(
    op: Op, previous: Op | None, after_results: bool, skip: Sequence[str], stepped: bool
) -> list[RenderableType]:
    """An op that comes next: heading, the program's own line, a library's under it, and the op in one line.

    Args:
        previous: The op that was shown before; what is the same is not repeated.
        skip: The modules whose lines are not the program's own.
        stepped: Whether the user came here from the op before.
    """
    parts: list[RenderableType] = [Text("")] if after_results else []
    site = own_site(op, skip)
    before = None if previous is None else own_site(previous, skip)
    beside = (
        previous is not None
        and previous.part is op.part
        and previous.phase == op.phase
        and before is not None
        and site is not None
    )
    same = beside and before is not None and site is not None and before.scope.code is site.scope.code
    inner = inner_line(op, skip)
    if not same:
        parts.append(heading(op, skip))
    if not (stepped and beside and before == site and inner is not None):
        source = marked(*own_source(op, skip), 0 if same else 1)
        source.rstrip()
        parts += [source] if source else []
    parts += [] if inner is None else [inner]
    parts.append(op_line(op))
    return parts


def failure(op: Op) -> RenderableType:
    """An op that raised: what it was given, and what it said."""
    text = Text()
    for value in dict.fromkeys(op.inputs):
        text.append("    ").append_text(value_text(value)).append(f" {dtype_text(value.dtype)}")
        maker = value.op
        if maker is not None:
            text.append(f"  made by {maker.label} {maker.name}", style="dim")
        text.append("\n")
    text.append(f"  {type(op.error).__name__}: {op.error}", style="error")
    return text


def _end(session: Session, stop: Stop) -> Text:
    error = stop.error
    status = ""
    if isinstance(error, SystemExit):
        code = error.code
        status = f" (exit status {code if isinstance(code, int) else 0 if code is None else 1})"
    text = Text(f"{stop.missed}: " if stop.missed else "", style="warning")
    program = session.debuggee
    if program is None or session.tape.ops:
        text.append(f"The program has ended{status}.", style="heading")
        text.append(" You can still go back and look around.", style="hint")
    elif defined(program.namespace):
        text.append(f"The program has ended{status}; it defines", style="heading")
    elif not program.bare:
        text.append(f"The program has ended{status}.", style="heading")
        text.append(" It did not call MLX once, so there is nothing to step through yet.", style="hint")
    return text
