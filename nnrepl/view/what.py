"""What: everything about one value, without evaluating it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from types import CodeType, FunctionType, MethodType
from typing import Any

from rich.console import RenderableType
from rich.text import Text

from nnrepl.record import segments as sources
from nnrepl.record.opaque import Transform
from nnrepl.record.titles import own_function, title
from nnrepl.tape import Op, Value
from nnrepl.timeline.evaluation import pending
from nnrepl.view.narrow import Grid
from nnrepl.view.one_op import leaf_text, op_line
from nnrepl.view.source_lines import place_text
from nnrepl.view.tensor import dtype_text, samples_text, shape_text


def thing_view(text: str, thing: Any) -> RenderableType:
    """Return what something is that is no tensor, and where that is written."""
    written = thing.__func__ if isinstance(thing, MethodType) else thing
    name = f"{type(thing).__module__}.{type(thing).__qualname__}"
    if isinstance(thing, Transform):
        written, name = own_function(thing.fun), f"mx.{thing.name} of {title(thing.fun)}"
    kind = written if isinstance(written, (type, FunctionType)) else type(thing)
    shown = Text(text, style="value.name").append(f"  {'a class' if isinstance(thing, type) else name}", "value.shape")
    file, line = _written(kind)
    return shown.append(f"  {os.path.basename(file)}:{line}", style="dim") if line else shown


def _written(kind: Any) -> tuple[str, int]:
    """Return where a function or a class begins; line 0 where that is not known. Of a class its methods tell, as the
    module that it is of may be another by now."""
    found = [getattr(one, "__code__", None) for one in (kind, *getattr(kind, "__dict__", {}).values())]
    for code in (one for one in found if isinstance(one, CodeType)):
        lines = sources.lines_of(sources.file_of(code))
        line = min(code.co_firstlineno, len(lines))
        while line and isinstance(kind, type) and not lines[line - 1].lstrip().startswith(f"class {kind.__name__}"):
            line -= 1
        if line:
            return sources.file_of(code), line
    return "", 0


def what_view(value: Value, names: Iterable[str], users: Sequence[Op], gradient: Value | str) -> RenderableType:
    """Return a value's shape, maker, users, state and gradient.

    Args:
        names: All that it is called.
        users: The ops that take it.
        gradient: Its gradient, or why there is none.
    """
    table = Grid(show_header=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column()
    title = Text(value.name, style="gradient" if value.gradient_of is not None else "value.name")
    table.add_row(title, Text(f"{shape_text(value.shape)} {dtype_text(value.dtype)}", style="value.shape"))
    samples = samples_text(value)
    if samples:
        table.add_row("", samples)
    others = [name for name in dict.fromkeys(names) if name != value.name]
    if others:
        table.add_row("also called", ", ".join(others))
    if value.op is not None:
        table.add_row("made by", op_line(value.op))
        table.add_row("", Text(f"{place_text(value.op.source)}  {value.op.source.text}", style="dim"))
        if len(value.op.outputs) > 1:
            table.add_row("", f"result [{value.slot}] of {len(value.op.outputs)}")
    else:
        table.add_row("is", leaf_text(value))
        if value.origin is not None and value.origin.op is not None:
            table.add_row("came from", op_line(value.origin.op))
    shown = ", ".join(f"{op.label} {op.name}" for op in users[:6]) + (f", ... ({len(users)})" if len(users) > 6 else "")
    table.add_row("used by", shown or "nothing")
    table.add_row("state", _state(value))
    if value.gradient_of is None:
        table.add_row("gradient", _gradient(gradient))
    return table


def _state(value: Value) -> str:
    if value.evaluated:
        return "evaluated"
    if value.refusal:
        return value.refusal
    ops = pending([value]) or []
    cost = "nothing else" if not ops else f"{len(ops)} op{'s' if len(ops) > 1 else ''}"
    dropped = "dropped (it is computed again when looked at)" if value.dropped else "not computed yet"
    return f"{dropped}; looking at it evaluates {cost}"


def _gradient(gradient: Value | str) -> str:
    if isinstance(gradient, str):
        return gradient
    if gradient.op is None:
        return "the seed of the backward pass: 1"
    state = "evaluated" if gradient.evaluated else "not computed yet"
    return f"made by {gradient.op.label} {gradient.op.name}, {state}"
