"""Folding: a whole pass, one line for each module that is not unfolded."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.text import Text

from nnrepl.classes import dataclass
from nnrepl.seen.slide import units
from nnrepl.session.errors import UserError
from nnrepl.tape import GRADIENT_PASS, Op, Pass
from nnrepl.view.op_list import block_title, name_width, op_row
from nnrepl.view.tensor import dtype_text, shape_text

SHORT = 40
"""A pass of so many ops is shown unfolded."""


@dataclass(slots=True)
class FoldedRun:
    """Neighbouring ops of one module that is folded, or a single op.

    Attributes:
        path: The module, () for an op that is shown by itself.
        ops: The ops.
    """

    path: tuple[str, ...]
    ops: list[Op]


class Folded:
    """A pass, folded. Lines are made as they are asked for.

    Args:
        pass_: The pass.
        cursor: Where the user stands: the module of the op there is unfolded.
        wanted: A module to unfold, "all" for everything, "" for what is around the cursor.
    """

    def __init__(self, pass_: Pass, cursor: int, wanted: str = "") -> None:
        self._cursor = cursor
        self._pass = pass_
        self._all = wanted == "all" or (not wanted and len(pass_) <= SHORT)
        self._open: set[tuple[str, ...]] = {()}
        here = pass_.tape.ops[cursor] if cursor < len(pass_.tape) else None
        asked = units(wanted)
        for path in (asked, units(here.module) if here is not None else ()):
            self._open.update(path[:count] for count in range(len(path) + 1))
        if not self._all and not any(units(op.module)[: len(asked)] == asked for op in pass_.ops):
            raise UserError(f"no op of {pass_.address} is in a module {wanted}; ops pass lists them")

    def runs(self, ops: list[Op]) -> Iterator[FoldedRun]:
        """Yield what there is a line for."""
        run: FoldedRun | None = None
        for op in ops:
            path = units(op.module)
            shut = next((path[:count] for count in range(len(path) + 1) if path[:count] not in self._open), ())
            if self._all:
                shut = ()
            if run is not None and shut and run.path == shut:
                run.ops.append(op)
                continue
            if run is not None:
                yield run
            run = FoldedRun(shut, [op])
        if run is not None:
            yield run

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        ops = self._pass.ops
        folded = False
        for block in _phases(self._pass):
            yield Text(f"{block_title(block[0], self._pass)} · {len(block)} ops", style="heading")
            numbers, names = len(block[-1].label), name_width(block)
            for run in self.runs(block):
                if len(run.ops) == 1:
                    yield op_row(run.ops[0], self._cursor, numbers, names, options.max_width)
                else:
                    folded = True
                    yield self._folded(run, options.max_width)
        if self._cursor >= len(self._pass.tape) and ops and ops[-1] is self._pass.tape.ops[-1]:
            yield Text("▶ (end)", style="source.current")
        if folded:
            yield Text("ops MODULE unfolds one, ops all everything", style="hint")

    def _folded(self, run: FoldedRun, width: int) -> Text:
        first, last = run.ops[0], run.ops[-1]
        here = first.position <= self._cursor <= last.position
        row = Text("▶ " if here else "  ", style="source.current", no_wrap=True, overflow="ellipsis")
        row.append("▸ ", style="dim").append(".".join(run.path), style="op.name")
        row.append(f"  {first.label} to {last.label}", style="op.number").append(f"  {len(run.ops)} ops", style="dim")
        done = sum(bool(op.outputs) and op.outputs[0].evaluated for op in run.ops)
        if done:
            row.append(f"  ● {done}" if done < len(run.ops) else "  ●", style="dim")
        if last.outputs:
            value = last.outputs[0]
            row.append("  →  ").append(f"{shape_text(value.shape)} {dtype_text(value.dtype)}", style="value.shape")
        row.truncate(width, overflow="ellipsis")
        return row


def _phases(pass_: Pass) -> list[list[Op]]:
    """Return the ops of a pass, forward and backward apart."""
    ops = pass_.ops
    cut = pass_.backward - pass_.start if pass_.kind == GRADIENT_PASS else len(ops)
    return [block for block in (ops[:cut], ops[cut:]) if block]


def pass_listing(pass_: Pass | None, cursor: int, wanted: str = "") -> RenderableType:
    """Every op of the pass in which the cursor stands, folded by module. Raises UserError for an unknown one."""
    if pass_ is None or not len(pass_):
        return Text("nothing has been recorded yet", style="hint")
    return Folded(pass_, cursor, wanted)
