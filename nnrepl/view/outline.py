"""Outline: ops by module, each with its result, shape, norm and gradient norm: what a Trace looks like."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import field
from itertools import groupby
from typing import NamedTuple

import mlx.core as mx
from rich.cells import cell_len, set_cell_size
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.text import Text

from nnrepl.classes import dataclass
from nnrepl.record.bounds import OutOfBounds
from nnrepl.seen.array_sizes import as_float, norms
from nnrepl.tape import GRADIENT_PASS, SKIPPED, Op, Pass, Value
from nnrepl.timeline.evaluation import evaluate, pending
from nnrepl.view.digits import number
from nnrepl.view.html import boxed, escaped
from nnrepl.view.source_lines import own_source, place_text
from nnrepl.view.tensor import shape_text

MOST = 1 << 22
"""An outline computes at most so many elements that were not computed before; of more, it computes none."""
ROWS = 60
"""Of a longer recording, modules are one line each in plain text."""
LISTED = 1000
"""So many ops are listed in a notebook."""
NOT_YET, DROPPED, NONE, FAILED = "not computed yet", "dropped", "–", "failed"


@dataclass(frozen=True, slots=True)
class ModuleStretch:
    """The ops that one module makes, one after another.

    Attributes:
        path: The module's path.
        members: Ops, and modules within it.
    """

    path: str
    members: tuple[Op | ModuleStretch, ...]

    def ops(self) -> Iterator[Op]:
        """All of its ops."""
        for member in self.members:
            if isinstance(member, ModuleStretch):
                yield from member.ops()
            else:
                yield member


def branches(ops: Sequence[Op], depth: int = 0) -> tuple[Op | ModuleStretch, ...]:
    """Ops in order of execution, those of one module together."""
    found: list[Op | ModuleStretch] = []
    for path, run in groupby(ops, lambda op: _path(op, depth)):
        members = list(run)
        if not path:
            found += members
            continue
        inner = branches(members, depth + 1)
        only = inner[0] if len(inner) == 1 else None
        found.append(only if isinstance(only, ModuleStretch) else ModuleStretch(path, inner))
    return tuple(found)


def by_step(ops: Sequence[Op]) -> tuple[Op | ModuleStretch, ...]:
    """Ops by the training step that they belong to, if there are several, and then by module."""
    steps = [(step, list(run)) for step, run in groupby(ops, lambda op: op.step.number)]
    if len(steps) < 2:
        return branches(ops)
    return tuple([ModuleStretch(f"step {step}" if step else "setup", branches(run)) for step, run in steps])


def _path(op: Op, depth: int) -> str:
    words = op.module.split(".") if op.module else []
    return ".".join(words[: depth + 1]) if len(words) > depth else ""


class Parameter(NamedTuple):
    """A leaf with respect to which gradients are taken.

    Attributes:
        cells: Its name, shape, norm and gradient norm.
        share: How large its gradient is beside the largest one, from 0 to 1.
    """

    cells: tuple[str, str, str, str]
    share: float


@dataclass
class Outline:
    """What is known of some passes. The tensors are computed when this is made, if it is not too much; a norm is taken
    when it is shown.

    Attributes:
        title: The first line.
        members: The forward ops (and those outside of gradient calls) by module.
        norms: Those that were taken.
        notes: What is to be said below.
    """

    title: str
    passes: Sequence[Pass]
    members: tuple[Op | ModuleStretch, ...] = ()
    norms: dict[Value, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        ops = [op for pass_ in self.passes for op in pass_.ops if op.phase != "backward" and not op.inner]
        self.members = by_step(ops)
        values = [value for op in ops for value in op.outputs]
        leaves = [leaf for pass_ in self.passes for leaf in pass_.wrt]
        gradients = [self.gradient(pass_, value) for pass_ in self.passes for value in pass_.wrt]
        inside = [op for op in ops if op.pass_.kind == GRADIENT_PASS]
        gradients += [self.gradient(op.pass_, value) for op in inside for value in op.outputs]
        known = dict.fromkeys([*values, *leaves, *[one for one in gradients if one is not None]])
        self._compute([value for value in known if not value.refusal])
        if any(one is None for one in gradients):
            self.notes.append(f"{NONE} no gradient is taken there")

    def _compute(self, values: list[Value]) -> None:
        try:
            if pending(values, MOST) is None:
                self.notes.append(f"what is {NOT_YET} is much: look at one by its name to compute it")
            else:
                evaluate(values)
        except OutOfBounds as error:
            self.notes.append(str(error))

    @staticmethod
    def gradient(pass_: Pass, value: Value) -> Value | None:
        """Return the whole gradient with respect to a value; None where none is taken."""
        found = pass_.grads.get(value.canonical)
        return found[-1] if found else None

    def norm(self, value: Value | None) -> str:
        """Return the norm of a value in a few signs, or why there is none."""
        if value is None:
            return NONE
        if value.dropped:
            return DROPPED
        if not value.evaluated:
            return NOT_YET
        found = self.size(value)
        return "" if found is None else number(found)

    def size(self, value: Value | None) -> float | None:
        """Return the norm of a value; None where its numbers are not there, or are no floats."""
        if value is None or not value.evaluated or not value.size or not mx.issubdtype(value.dtype, mx.inexact):
            return None
        if value not in self.norms:
            (self.norms[value],) = norms([value.array])
        return self.norms[value]

    def cells(self, op: Op) -> list[tuple[str, ...]]:
        """For each output of an op: op, result, shape, norm, gradient norm, place."""
        what, where = f"{op.label} {op.name}", _where_text(op)
        if op.error is not None or not op.outputs:
            return [(what, "", "", FAILED if op.error is not None else "", "", where)]
        rows: list[tuple[str, ...]] = []
        for slot, value in enumerate(op.outputs[:4]):
            name = value.name if not value.name.startswith("#") else ""
            gradient = "" if op.pass_.kind != GRADIENT_PASS else self.norm(self.gradient(op.pass_, value))
            head, tail = (what, where) if not slot else ("", "")
            rows.append((head, name, shape_text(value.shape), self.norm(value), gradient, tail))
        return rows

    def parameters(self) -> list[Parameter]:
        """Return the leaves with respect to which gradients are taken, in the last call that takes some."""
        pass_ = next((pass_ for pass_ in reversed(self.passes) if pass_.wrt), None)
        if pass_ is None:
            return []
        gradients = {leaf: self.gradient(pass_, leaf) for leaf in pass_.wrt}
        sizes = {leaf: self.size(gradient) or 0.0 for leaf, gradient in gradients.items()}
        top = max((size for size in sizes.values() if math.isfinite(size)), default=0.0)
        return [
            Parameter(
                (leaf.name, shape_text(leaf.shape), self.norm(leaf), self.norm(gradients[leaf])),
                sizes[leaf] / top if top and math.isfinite(sizes[leaf]) else 0.0,
            )
            for leaf in pass_.wrt
        ]


def _where_text(op: Op) -> str:
    source, _ = own_source(op, SKIPPED)
    segment = " ".join(source.text.split())
    return f"{place_text(source)}  {segment if len(segment) <= 40 else segment[:39] + '…'}".strip()


def outline_of(passes: Sequence[Pass]) -> Outline:
    """Return the outline of some passes of a tape; nothing is computed if it would be too much."""
    passes = [pass_ for pass_ in passes if len(pass_)]
    counts = {
        phase: sum(op.outer_phase == phase for pass_ in passes for op in pass_.ops)
        for phase in ("setup", "forward", "backward", "update")
    }
    total = sum(counts.values())
    said = ", ".join(f"{count} {phase}" for phase, count in counts.items() if count)
    title = f"{total} op{'s' if total != 1 else ''}" + (f": {said}" if said else "")
    made = Outline(title, passes)
    loss = next((pass_.loss for pass_ in reversed(passes) if pass_.loss is not None), None)
    if loss is not None and loss.evaluated and loss.size == 1:
        name = "loss" if loss.name.startswith("#") else loss.name
        made.title += f" · {name} = {number(as_float(loss.array))}"
    return made


# -- as text ---------------------------------------------------------------------------------------------------

_TITLES = ("op", "result", "shape", "norm", "gradient norm", "source")
_WRT = ("with respect to", "shape", "norm", "gradient norm")
_STYLES = ("op.name", "value.name", "value.shape", "", "gradient", "dim")
_BAR = 24
_WIDEST = 28
"""How wide a column of names is at most."""


class Columns:
    """Rows of words in columns as wide as they need, the last one cut where the line ends.

    Args:
        titles: What stands above; columns whose title says norm are numbers.
        styles: One a column.
    """

    def __init__(self, titles: tuple[str, ...], styles: tuple[str, ...]) -> None:
        self._titles = titles
        self._styles = styles
        self._rows: list[tuple[str, ...]] = []

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, *words: str) -> None:
        """Add a row; of one word it is a heading."""
        self._rows.append(words)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        full = [row for row in self._rows if len(row) > 1]
        columns = list(zip(*[self._titles, *full]))
        widths = [min(max(map(cell_len, column)), _WIDEST) for column in columns]
        yield self._line(self._titles, widths, ("dim",) * len(widths), options.max_width)
        for row in self._rows:
            styles = self._styles if len(row) > 1 else ("heading",)
            yield self._line(row, widths, styles, options.max_width)

    def _line(self, row: tuple[str, ...], widths: list[int], styles: tuple[str, ...], width: int) -> Text:
        line = Text(no_wrap=True, overflow="ellipsis")
        for at, word in enumerate(row):
            if len(row) == 1 or at == len(self._titles) - 1:
                line.append(word, styles[at])
                break
            shown = set_cell_size(word, widths[at]) if cell_len(word) > widths[at] else word
            blank = " " * (widths[at] - cell_len(shown))
            right = "norm" in self._titles[at]
            line.append(blank if right else "").append(shown, styles[at]).append(("" if right else blank) + "  ")
        line.rstrip()
        line.truncate(width, overflow="ellipsis")
        return line


def outline_view(made: Outline) -> RenderableType:
    """Return an outline in lines; a long one has a line for each module."""
    count = sum(len(pass_) for pass_ in made.passes)
    rows = Columns(_TITLES, _STYLES)
    left = _add_rows(rows, made, made.members, 0, count > ROWS)
    parts: list[RenderableType] = [Text(made.title, style="heading"), rows]
    if left:
        parts.append(Text(f"… and {left:,} more: trace.ops[i] is one of them", style="hint"))
    if made.parameters():
        wrt = Columns((*_WRT, ""), ("value.name", "value.shape", "", "gradient", "gradient"))
        for parameter in made.parameters():
            wrt.add(*parameter.cells, "█" * math.ceil(parameter.share * _BAR))
        parts += [Text(""), wrt]
    return Group(*parts, *[Text(note, style="hint") for note in made.notes])


def _add_rows(rows: Columns, made: Outline, members: Sequence[Op | ModuleStretch], depth: int, folded: bool) -> int:
    """Rows for ops and modules. Returns how many did not fit."""
    left, margin = 0, "  " * depth
    for member in members:
        if len(rows) >= 2 * ROWS:
            left += 1
        elif not isinstance(member, ModuleStretch):
            for row in made.cells(member):
                rows.add(margin + row[0] if row[0] else "", *row[1:])
        elif folded and not any(isinstance(inner, ModuleStretch) for inner in member.members):
            *_, last = member.ops()
            _, name, shape, norm, gradient, where = made.cells(last)[0]
            rows.add(f"{margin}{member.path}  {_count(member)}", name, shape, norm, gradient, where)
        else:
            rows.add(f"{margin}{member.path}  {_count(member)}")
            left += _add_rows(rows, made, member.members, depth + 1, folded)
    return left


def _count(branch: ModuleStretch) -> str:
    count = sum(1 for _ in branch.ops())
    return f"{count} op{'s' if count != 1 else ''}"


# -- as HTML ---------------------------------------------------------------------------------------------------


def outline_html(made: Outline) -> str:
    """Return an outline for a notebook: modules unfold at a click."""
    room = [LISTED]
    parts = [f"<b>{escaped(made.title)}</b>", *_html_of(made, made.members, room)]
    left = -room[0]
    if left > 0:
        parts.append(f'<div class="h">… and {left:,} more: trace.ops[i] is one of them</div>')
    if made.parameters():
        head = "".join(f"<th>{title}</th>" for title in _WRT)
        rows = "".join(
            f'<tr><td><b>{escaped(name)}</b></td><td>{escaped(shape)}</td><td class="n">{escaped(norm)}</td>'
            f'<td class="n">{escaped(gradient)}</td><td>{_bar(share)}</td></tr>'
            for (name, shape, norm, gradient), share in made.parameters()
        )
        parts.append(f"<table><tr>{head}</tr>{rows}</table>")
    parts += [f'<div class="h">{escaped(note)}</div>' for note in made.notes]
    return boxed(*parts)


def _html_of(made: Outline, members: Sequence[Op | ModuleStretch], room: list[int], open_: bool = True) -> list[str]:
    parts: list[str] = []
    for is_branch, run in groupby(members, lambda member: isinstance(member, ModuleStretch)):
        if not is_branch:
            rows = []
            for op in run:
                room[0] -= 1
                rows += [_row(cells) for cells in made.cells(op)] if room[0] >= 0 and isinstance(op, Op) else []
            head = "".join(f"<th>{title}</th>" for title in _TITLES)
            parts += [f"<table><tr>{head}</tr>{''.join(rows)}</table>"] if rows else []
            continue
        for branch in run:
            assert isinstance(branch, ModuleStretch)
            if room[0] <= 0:
                room[0] -= sum(1 for _ in branch.ops())
                continue
            said = _summary(made, branch)
            inner = "".join(_html_of(made, branch.members, room, False))
            parts.append(
                f"<details{' open' if open_ and len(members) <= 4 else ''}><summary><b>{escaped(branch.path)}</b> "
                f'{_count(branch)} <span class="h">{escaped(said)}</span></summary>{inner}</details>'
            )
    return parts


def _summary(made: Outline, branch: ModuleStretch) -> str:
    """Return what a module gives: `→ h · (3, 8) · norm 2.4 · gradient 0.1`; of a step, its loss."""
    *_, last = branch.ops()
    if branch.path.startswith("step "):
        losses = [pass_.loss for pass_ in last.step.passes if pass_.loss is not None]
        known = losses and losses[-1].evaluated and losses[-1].size == 1
        return f"loss {number(as_float(losses[-1].array))}" if known else ""
    _, name, shape, norm, gradient, _ = made.cells(last)[0]
    parts = (name and f"→ {name}", shape, norm and f"norm {norm}", gradient and f"gradient {gradient}")
    return " · ".join(part for part in parts if part)


def _bar(share: float) -> str:
    """Return a bar that is as long as a number is large beside the largest one."""
    return f'<div style="background:var(--nr5);height:0.7em;width:{160 * share:.0f}px"></div>'


def _row(cells: tuple[str, ...]) -> str:
    op, name, shape, norm, gradient, where = map(escaped, cells)
    return (
        f'<tr><td>{op}</td><td><b>{name}</b></td><td>{shape}</td><td class="n">{norm}</td>'
        f'<td class="n">{gradient}</td><td class="h">{where}</td></tr>'
    )
