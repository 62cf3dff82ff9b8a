"""Ops pane: the list of ops around the cursor, each with its result first."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

from rich.text import Text

from nnrepl.explain.doing import Doing
from nnrepl.tape import BackwardOp, Op, Tape
from nnrepl.view.content import Item, Part
from nnrepl.view.one_op import inputs_text, state_of
from nnrepl.view.op_list import STATES
from nnrepl.view.tensor import shape_text


class Formulas:
    """What ops do, in the program's names; found once for each op of the step in which the user stands.

    Args:
        tell: Tells what an op does, without numbers.
    """

    def __init__(self, tell: Callable[[Op], Doing]) -> None:
        self._tell = tell
        self._known: dict[tuple[Op, int], Text] = {}

    def __call__(self, op: Op) -> Text:
        """`(x @ weights1) + bias1`, `∂L/∂#7 · 2 · error`, `back through addmm(bias, x, ...)`; without shapes."""
        key = (op, op.tape.here)
        if key not in self._known:
            if len(self._known) >= _KEPT:
                self._known.clear()
            self._known[key] = self._found(op)
        return self._known[key]

    def _found(self, op: Op) -> Text:
        found = self._tell(op)
        rights = [equation.right for equation in found.equations]
        if len(rights) == 1 and rights[0]:
            return Text(rights[0])
        if found.through:
            return Text().append("back through ", style="dim").append(found.through)
        return _call(op)


_KEPT = 2000


class OpsPane:
    """The ops of the tape: only the lines that are seen are made.

    Args:
        tape: The ops.
        cursor: Where the user stands.
        formulas: Tells what an op does.
    """

    def __init__(self, tape: Tape, cursor: int, formulas: Formulas) -> None:
        self._tape = tape
        self._cursor = cursor
        self._formulas = formulas
        self.key: Hashable = (id(tape), cursor)

    @property
    def title(self) -> str:
        """Where one is."""
        op = self._tape.ops[self._cursor] if self._cursor < len(self._tape) else None
        return "ops" if op is None else f"ops · {op.phase}" + (f" · {op.module}" if op.module else "")

    def count(self, width: int) -> int | None:
        """Return the ops, and what stands after the last one if the cursor does."""
        count = len(self._tape)
        return count + (self._cursor >= count)

    def home(self, count: int, height: int) -> int:
        """So that the cursor has a third of the pane above it."""
        return max(min(self._cursor - height // 3, count - height), 0)

    def chosen(self) -> int:
        """Return the next op."""
        return self._cursor

    def parts(self, first: int, width: int, height: int, right: int) -> Sequence[Part]:
        """As many ops as there is room for."""
        ops = self._tape.ops[first : first + height]
        numbers = max((len(op.label) for op in ops), default=0)
        names = min(max((len(result_name(op)) for op in ops), default=0), max(width // 4, 6))
        rows = [Part(self._row(op, numbers, names, width, right), item_of(op)) for op in ops]
        if len(rows) < height and self._cursor >= len(self._tape):
            nothing = Text("no op yet", style="hint")
            rows.append(Part(Text("▶ (end)", style="source.current") if self._tape.ops else nothing))
        return rows

    def _row(self, op: Op, numbers: int, names: int, width: int, right: int) -> Text:
        right = max(right, 0)
        row = op_row(op, self._formulas(op), self._cursor, numbers, names, width + right)
        return row if not right else row[right:]


def item_of(op: Op) -> Item:
    """Return what keys and clicks do to an op."""
    return Item(f"goto {op.label}", f"explain {op.label}", f"break {op.label}", f"until {op.label}")


def result_name(op: Op) -> str:
    """Return what comes out, by name; "" for a result without one."""
    names = [value.name for value in op.outputs[:2] if not value.name.startswith("#")]
    return ", ".join(names) + (", …" if len(op.outputs) > 2 and names else "")


def op_row(op: Op, formula: Text, cursor: int, numbers: int, names: int, width: int) -> Text:
    """`▶ #28 ● weights  softmax(scores + mask)   (8, 4, 32, 32)`: what comes out, how, and its shape if there is room.

    Args:
        formula: What it does.
        cursor: Where the user stands.
        numbers, names, width: The widths of the columns of numbers and results, and of all.
    """
    here = op.position == cursor
    row = Text(no_wrap=True, overflow="ellipsis")
    row.append("▶ " if here else "  ", style="source.current")
    row.append(op.label.ljust(numbers) + " ", style="op.number")
    row.append(STATES[state_of(op)] + " ", style="dim")
    gradient = any(value.gradient_of is not None for value in op.outputs)
    name = Text(result_name(op), style="gradient" if gradient else "value.name")
    name.truncate(names, overflow="ellipsis", pad=True)
    row.append_text(name).append(" ")
    row.append_text(formula)
    shapes = ", ".join(shape_text(value.shape) for value in op.outputs[:2]) + ("" if len(op.outputs) < 3 else ", …")
    room = width - row.cell_len - len(shapes)
    if op.error is not None:
        row.append(f"  ✗  {type(op.error).__name__}", style="error")
    elif room >= 2:
        row.append(" " * room).append(shapes, style="value.shape")
    row.truncate(width, overflow="ellipsis")
    return row


def _call(op: Op) -> Text:
    """`x @ weights1`, `square(error)`, `vjp of square(∂L/∂#7)`: without shapes."""
    inputs = inputs_text(op, shapes=False)
    infix = not isinstance(op, BackwardOp) and (op.operation.infix is not None or op.operation.name == "matmul")
    if infix or op.operation.name == "accumulate":
        return inputs
    return Text().append(op.name, style="op.name").append("(").append_text(inputs).append(")")
