"""Stop: what is shown when the person gets the floor."""

from __future__ import annotations

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.text import Text

from nnrepl.session.session import END_OF_PROGRAM, END_OF_TAPE, EXCEPTION, START_OF_TAPE, Session, Stop
from nnrepl.tape import GRADIENT_PASS, Op
from nnrepl.view.op import op_line, value_text
from nnrepl.view.source import marked, place_text
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


def heading(op: Op) -> Heading:
    """`step 1 · forward 1 of 8        simple_nn.py:31 in SimpleNN.__call__`."""
    part = op.part
    step = f"{op.step.title} · " if part.kind != "setup" else ""
    left = Text(f"{step}{op.phase} {count_text(op)}", style="heading")
    source = op.source
    where = place_text(source)
    module = op.module
    inside = f" in {source.function}" if source.function and source.function != "<module>" else ""
    if op.of is not None:
        return Heading(left, f"from {op.of.label}, {where}{inside}")
    return Heading(left, f"{where}{inside}" + (f" ({module})" if module else ""))


def count_text(op: Op) -> str:
    """`3 of 8`, counted within its phase of its pass."""
    part = op.part
    if part.kind != GRADIENT_PASS:
        number = op.position - part.start + 1
        return f"{number} of {len(part)}" if not part.open else f"{number}"
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
    if stop.reason == EXCEPTION and stop.error is not None:
        parts.append(Text(f"{type(stop.error).__name__}: {stop.error}", style="error"))
    elif stop.reason in (START_OF_TAPE, END_OF_TAPE):
        parts.append(Text(f"This is the {stop.reason.split()[0]} of the tape.", style="hint"))
    elif stop.reason == END_OF_PROGRAM:
        parts.append(_end(session, stop))
    elif stop.hits:
        parts.extend(hits_view(session, stop))
    elif stop.reason not in ("", "first op"):
        parts.append(Text(stop.reason, style="heading"))
    if op is not None and not brief:
        parts.extend(op_view(op, previous, bool(parts)))
    if op is not None and op.error is not None:
        parts.append(failure(op))
    return Group(*parts)


def op_view(op: Op, previous: Op | None, after_results: bool) -> list[RenderableType]:
    """An op that comes next: heading, source, and the op in one line."""
    parts: list[RenderableType] = []
    same = (
        previous is not None
        and previous.part is op.part
        and previous.phase == op.phase
        and previous.scope is not None
        and op.scope is not None
        and previous.scope.code is op.scope.code
    )
    if after_results:
        parts.append(Text(""))
    if not same:
        parts.append(heading(op))
    source = marked(op, 0 if same else 1)
    if source:
        source.rstrip()
        parts.append(source)
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
    text.append(f"The program has ended{status}.", style="heading")
    if not session.tape.ops:
        text.append(" It did not call MLX once, so there is nothing to step through.", style="hint")
    else:
        text.append(" You can still go back and look around.", style="hint")
    return text
