"""Slide: a gradient pass as rows, one for each module or op, with what it makes and with its gradient."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import field

from nnrepl.classes import dataclass
from nnrepl.explain.cases import names_for
from nnrepl.explain.doing import doing
from nnrepl.explain.look import Look, Stat
from nnrepl.session.reading import Reading
from nnrepl.tape import GRADIENT_PASS, Leaf, Op, Pass, Value, own_site


@dataclass(eq=False, slots=True)
class SlideRow:
    """A forward op, or a module with rows of its own.

    Attributes:
        title: `blocks.0.attention`, or what the op does.
        ops: Its forward ops, in order.
        back: The backward ops that go back through them.
        rows: What it is made of; empty for an op.
        outputs: What it makes that others take: of an op all of its results.
        parameters: What it learns.
    """

    title: str
    ops: list[Op] = field(default_factory=list)
    back: list[Op] = field(default_factory=list)
    rows: list[SlideRow] = field(default_factory=list)
    outputs: list[Value] = field(default_factory=list)
    parameters: list[Value] = field(default_factory=list)

    @property
    def label(self) -> str:
        """`#5`, or `#5 to #16`."""
        return _span(self.ops)

    @property
    def back_label(self) -> str:
        """The numbers of its backward ops."""
        return _span(self.back)

    def flattened(self, depth: int) -> Iterator[SlideRow]:
        """Yield the rows that are seen when modules deeper than `depth` are folded."""
        for row in self.rows:
            if row.rows and (depth > 0 or len(row.ops) == 1):
                yield from row.flattened(depth - 1)
            else:
                yield row

    @property
    def depth(self) -> int:
        """How deep modules lie in each other."""
        return 1 + max((row.depth for row in self.rows if row.rows), default=0)


def units(path: str) -> tuple[str, ...]:
    """Return a module path in steps; a number belongs to the list that it counts: `blocks.0`, `attention`."""
    return tuple(re.findall(r"[^.]+(?:\.\d+)*", path))


def _span(ops: list[Op]) -> str:
    if not ops:
        return ""
    first, last = ops[0].label, ops[-1].label
    return first if first == last else f"{first} to {last}"


class Slide:
    """A gradient pass as a tree of rows, with the size of each value and gradient.

    `lacks` says whether some sizes are not known, `most` what the largest gradient's norm is.

    Args:
        session: Where the user stands.
        pass_: The pass.
        numbers: Whether all values are evaluated for their sizes; else those have one that are evaluated, or small
            enough to be looked at unasked.
    """

    def __init__(self, session: Reading, pass_: Pass, numbers: bool = True) -> None:
        self.pass_ = pass_
        self.whole = _tree(session, pass_)
        self._look = Look(session)
        wanted = [value for row in self._all(self.whole) for value in (*row.outputs, *row.parameters)]
        wanted += [gradient for value in wanted if (gradient := self.gradient(value)) is not None]
        wanted = [value for value in dict.fromkeys(wanted) if not value.refusal]
        self.lacks = False
        if not numbers:
            known = [value for value in wanted if value.evaluated or session.small([value])]
            self.lacks, wanted = len(known) < len(wanted), known
        self._stats: dict[Value, Stat] = self._look.stats(wanted)
        self.most = max((self._norm(g) for v in wanted if (g := self.gradient(v)) is not None), default=0.0)

    def _all(self, row: SlideRow) -> Iterator[SlideRow]:
        for inner in row.rows:
            yield inner
            yield from self._all(inner)

    def gradient(self, value: Value) -> Value | None:
        """Return the whole gradient of a value in this pass; None if there is none."""
        grads = self.pass_.grads.get(value.canonical)
        return grads[-1] if grads else None

    def _norm(self, value: Value) -> float:
        return self._stats[value].norm if value in self._stats else 0.0

    def stat(self, value: Value) -> Stat | None:
        """Return what is known of a value's size; None where it is not computed."""
        return self._stats.get(value)

    def share(self, value: Value) -> float:
        """How large a gradient is, as a share of the largest of the pass."""
        gradient = self.gradient(value)
        return self._norm(gradient) / self.most if gradient is not None and self.most else 0.0

    def rows(self, most: int) -> list[SlideRow]:
        """As deep as fits into so many rows."""
        for depth in range(self.whole.depth, 0, -1):
            found = list(self.whole.flattened(depth))
            if len(found) <= most:
                return found
        return list(self.whole.flattened(0))

    def shown(self, row: SlideRow) -> list[Value]:
        """Return the results of a row that are shown: all of an op's, the last of a module's."""
        return row.outputs[-1:] if row.rows else row.outputs

    def gradients(self, row: SlideRow) -> list[tuple[str, Value]]:
        """Return the gradients of what a row makes and of what it learns, each by a name that is short in the row."""
        made = [(value.name, value) for value in self.shown(row)]
        learned = [(shorter(value.name, row), value) for value in sorted(row.parameters, key=self.share, reverse=True)]
        made = [(f"∂L/∂{shorter(name, row)}", value) for name, value in made]
        return [(name, value) for name, value in (*made, *learned) if self.gradient(value) is not None]

    def share_of(self, row: SlideRow) -> float:
        """Return the largest of a row's gradients, as a share of the largest of the pass."""
        return max((self.share(value) for _, value in self.gradients(row)), default=0.0)


def shorter(name: str, row: SlideRow) -> str:
    """Return a name as it is called within a module: `query.weight` in `blocks.0.attention`."""
    return name.removeprefix(f"{row.title}.") if row.rows else name


# -- the tree ------------------------------------------------------------------------------------------------------


def _tree(session: Reading, pass_: Pass) -> SlideRow:
    whole = SlideRow(pass_.title)
    stack: list[tuple[tuple[str, ...], SlideRow]] = [((), whole)]
    rows: dict[Op, SlideRow] = {}
    ops = pass_.ops
    cut = pass_.backward - pass_.start if pass_.kind == GRADIENT_PASS else len(ops)
    for op in ops[:cut]:
        path = _path(session, op)
        while path[: len(stack[-1][0])] != stack[-1][0]:
            stack.pop()
        for count in range(len(stack[-1][0]) + 1, len(path) + 1):
            section = SlideRow(".".join(path[:count]))
            stack[-1][1].rows.append(section)
            stack.append((path[:count], section))
        rows[op] = SlideRow(_title(session, op), [op], [], [], list(op.outputs), _parameters(op))
        stack[-1][1].rows.append(rows[op])
    for op in ops[cut:]:
        root = op.of or _root_of(op)
        if root in rows:
            rows[root].back.append(op)
    _add_up(whole)
    return whole


def _root_of(op: Op) -> Op | None:
    """Return the forward op beside which a sum of gradients stands: that whose result it is the gradient of."""
    of = next((value.gradient_of for value in op.outputs if value.gradient_of is not None), None)
    return None if of is None else of.op


def _path(session: Reading, op: Op) -> tuple[str, ...]:
    """Under what an op is folded: its module, or a library's function that the program calls."""
    if op.module:
        return units(op.module)
    site = own_site(op, session.skip)
    return (op.source.function,) if site is not None and site.scope is not op.scope and op.source.function else ()


def _title(session: Reading, op: Op) -> str:
    found = doing(session, op, numbers=False)
    equation = found.equations[0] if found.equations else None
    if equation is None:
        return op.name
    return f"{equation.left} = {equation.right}" if equation.left else equation.right


def _parameters(op: Op) -> list[Value]:
    """Return what an op learns, also where it takes it turned over; turning it over is not using it."""
    if op.name == "transpose":
        return []
    names = names_for(op)
    taken = [value for value in dict.fromkeys(op.inputs) if isinstance(value, Leaf) and value.kind == "parameter"]
    through = [value.op.inputs[0] for value in op.inputs if value.op is not None and value.op.name == "transpose"]
    taken += [value for value in through if isinstance(value, Leaf) and value.kind == "parameter"]
    return sorted(dict.fromkeys(taken), key=names)


def _add_up(row: SlideRow) -> None:
    """Give modules the ops, results and parameters of what they are made of."""
    for inner in row.rows:
        if inner.rows:
            _add_up(inner)
        row.ops += inner.ops
        row.back += inner.back
        row.parameters += [value for value in inner.parameters if value not in row.parameters]
    row.back.sort(key=lambda op: op.position)
    own = set(row.ops)
    made = [value for op in row.ops for value in op.outputs]
    row.outputs = [value for value in made if any(user.of is None and user not in own for user in value.consumers)]
    row.outputs = row.outputs or made[-1:]
