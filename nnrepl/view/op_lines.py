"""Doing: what the op at which one stops does, in a line or two: `#2  z1 = (x @ weights1) + bias1   ...`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from nnrepl.explain.doing import Doing, Equation
from nnrepl.tape import Op, Value
from nnrepl.view.tensor import dtype_text, shape_text

_TERMS = (4, 3, 2, 1)
"""So many terms of a long sum are tried, until the line fits."""
_GAP = "   "
_INDENT = 6


class DoingLines:
    """What an op does, fitted to the width: the formula, after or under it the numbers, and the shapes.

    Args:
        found: What it does.
    """

    def __init__(self, found: Doing) -> None:
        self._found = found

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for row in self._rows(options.max_width):
            row.overflow = "fold"
            yield row

    def _rows(self, width: int) -> list[Text]:
        found = self._found
        head = Text(f"{found.op.label}  ", style="op.number")
        rows: list[Text] = []
        for equation in found.equations:
            before = Text().append_text(head) if not rows else Text(" " * min(head.cell_len, _INDENT))
            first, *rest = _fitted(equation, width - before.cell_len, found)
            rows.append(before.append_text(first))
            rows += [Text(" " * min(head.cell_len, _INDENT)).append_text(line) for line in rest]
        rows = rows or [Text().append_text(head).append(found.op.name, style="op.name")]
        if found.op.error is not None:
            rows[-1].append(f"  ✗  {type(found.op.error).__name__}", style="error")
        elif not found.is_asked:
            _shapes(rows, found, width)
        return rows


def _fitted(equation: Equation, room: int, found: Doing) -> list[Text]:
    """Return an equation in one line if it fits, with as many terms as fit; else its numbers under it."""
    for line in _whole(equation, found):
        if line.cell_len <= room:
            return [line]
    formula = _formula(equation, found)
    numbers = list(_numbers(equation, _TERMS))
    fits = next((line for line in numbers if line.cell_len <= room), numbers[-1] if numbers else None)
    # What fits nowhere goes over two lines; still longer arithmetic is left to explain.
    return [formula] if fits is None or fits.cell_len > 2 * room else [formula, fits]


def _formula(equation: Equation, found: Doing) -> Text:
    text = Text()
    if equation.left:
        gradient = equation.value.gradient_of is not None
        text.append(equation.left, style="gradient" if gradient else "value.name").append(" = ")
    return text.append(equation.right or found.op.name)


def _whole(equation: Equation, found: Doing) -> Iterator[Text]:
    """Yield formula and numbers in one line, with fewer and fewer terms; without numbers, the formula."""
    formula = _formula(equation, found)
    if equation.arithmetic is None:
        yield formula
    for numbers in _numbers(equation, _TERMS[:-1]):
        yield Text().append_text(formula).append(_GAP if equation.element else " ").append_text(numbers)


def _numbers(equation: Equation, terms: Sequence[int]) -> Iterator[Text]:
    """`z1[0,1] = −2.3830 + 0 = ?`, with so many terms of a long sum."""
    if equation.arithmetic is None:
        return
    end = equation.number if equation.known else "?"
    head = f"{equation.element} = " if equation.element else "= "
    for most in terms:
        numbers = equation.arithmetic.numbers(most)
        text = Text(head + numbers)
        if numbers != equation.number:
            text.append(" = ").append(end, style="bold")
        yield text


def _shapes(rows: list[Text], found: Doing, width: int) -> None:
    """Put the operation and the shapes at the right end of a line that has room: of what goes in and comes out, or only
    of what comes out."""
    op = found.op
    out = ", ".join(shape_text(value.shape) for value in op.outputs[:4]) + (", …" if len(op.outputs) > 4 else "")
    result = f"{out} {dtype_text(op.outputs[0].dtype)}" if op.outputs else "no result"
    name = "" if found.through or op.name in rows[0].plain else op.name
    taken = _ingoing(op)
    tails = [(name, f"{taken} → {result}" if taken else result), (name, result), (name, out), ("", result), ("", out)]
    for name, shapes in tails:
        tail = Text(f"{name}  " if name else "", style="op.name").append(shapes, style="value.shape")
        for row in rows[:1] if found.is_worked else [rows[0], rows[-1]]:
            if tail.cell_len + row.cell_len + len(_GAP) <= width:
                row.append(" " * (width - row.cell_len - tail.cell_len)).append_text(tail)
                return
    if not found.is_worked:
        rows.append(Text(f"{' ' * _INDENT}{result}", style="value.shape"))


def _ingoing(op: Op) -> str:
    taken: list[Value] = list(dict.fromkeys(op.inputs)) if op.of is None else [
        value for value in op.inputs if value.gradient_of is not None
    ]  # fmt: skip
    sign = " @ " if op.name == "matmul" else ", "
    return sign.join(shape_text(value.shape) for value in taken[:3]) + (", …" if len(taken) > 3 else "")


__all__ = ["DoingLines"]
