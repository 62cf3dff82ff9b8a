"""Account: hold recorded ops against MLX's own lazy graph."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from nnrepl.classes import dataclass
from nnrepl.record.dot import Primitive, read_graph
from nnrepl.tape import DrawnKey, Op, Value


@dataclass(frozen=True, slots=True)
class Account:
    """What MLX's lazy graph shows of some ops.

    Attributes:
        primitives: How many primitives an op accounts for.
        unaccounted: What no op does.
        evaluated: How many ops had been evaluated, so that their primitives are gone.
    """

    primitives: int = 0
    unaccounted: tuple[str, ...] = ()
    evaluated: int = 0


def account(ops: list[Op]) -> Account:
    """Hold recorded ops against MLX's own lazy graph.

    Every primitive that leads to an op's results must lie between them and the op's recorded inputs, and no array
    that came in from outside may have been computed from what is on the tape.
    """
    accounts = _Accounts(ops)
    wrong = [problem for op in ops for problem in accounts.claim(op)]
    wrong.extend(accounts.strangers())
    return Account(len(accounts.owned), tuple(dict.fromkeys(wrong)), sum(map(accounts.is_evaluated, ops)))


class _Accounts:
    """Which node of MLX's graph is which value.

    Attributes:
        owned: The primitives that an op has accounted for.
    """

    def __init__(self, ops: list[Op]) -> None:
        self.owned: set[Primitive] = set()
        self._ops = ops
        # An input of which the tape has let go stands for what it was made from, which may lie before all ops.
        taken = dict.fromkeys(value for op in ops for value in op.inputs)
        made = [value for op in ops for value in op.outputs if value.held is not None]
        self._values = dict.fromkeys((*_held(taken), *made))
        self._drawn = {op: keys for op in ops if (keys := tuple(drawn_keys(op)))}
        states = {id(key.state): key.state for keys in self._drawn.values() for key in keys}
        arrays = {id(value.held): value.array for value in self._values} | states
        primitives, nodes = read_graph(list(arrays.values()))
        self._nodes = dict(zip(arrays, nodes))
        self._names = {value: self._nodes[id(value.held)] for value in self._values}
        self._made_by = {name: made for made in primitives for name in made.outputs}
        self._known: dict[str, Value] = {}
        for value, name in self._names.items():
            known = self._known.get(name)
            if known is None or known.op is None:
                self._known[name] = value

    def claim(self, op: Op) -> Iterator[str]:
        """Take the primitives between an op's outputs and its inputs; anything else it reaches is undeclared."""
        outputs = {self._names[value] for value in op.outputs if value.held is not None}
        own = {self._nodes[id(value.held)] for value in _held(op.inputs)}
        if op in self._drawn:
            own.update(self._nodes[id(key.state)] for key in self._drawn[op])
        pending = list(outputs)
        seen: set[str] = set()
        while pending:
            name = pending.pop()
            if name in seen or name in own:
                continue
            seen.add(name)
            known = self._known.get(name)
            if known is not None and name not in outputs and not _go_together(op, known):
                yield f"{op.label} {op.name} also depends on {known.name}, which is not among its inputs"
                continue
            made = self._made_by.get(name)
            if made is not None:
                self.owned.add(made)
                pending.extend(made.inputs)

    def is_evaluated(self, op: Op) -> bool:
        """Whether an op had been evaluated: no primitive makes its results."""
        # MLX itself says that an array is lazy by raising, which takes it longer than all the rest.
        return all([value.held is not None and self._names[value] not in self._made_by for value in op.outputs])

    def strangers(self) -> Iterator[str]:
        """Leaves that were computed from values of the tape by something that was not recorded."""
        made = {self._names[value] for op in self._ops for value in op.outputs if value.held is not None}
        differentiated = {self._names[leaf] for leaf in _differentiated(self._ops) if leaf in self._values}
        known = made | differentiated
        for leaf in self._values:
            if leaf.op is None and leaf.origin is None and self._names[leaf] not in known:
                # What the program had before may have been made of the weights then; of a hole it is known.
                sources = known if leaf.kind == "hole" else made
                source = self._first_of(sources, self._names[leaf])
                if source is not None:
                    yield f"{leaf.name} was computed from {source.name} by something that was not recorded"

    def _first_of(self, wanted: set[str], start: str) -> Value | None:
        """Return the first of the wanted nodes that lead to a node."""
        pending = [start]
        seen: set[str] = set()
        while pending:
            name = pending.pop()
            if name in wanted:
                return self._known[name]
            if name not in seen and name in self._made_by:
                seen.add(name)
                pending.extend(self._made_by[name].inputs)
        return None


def _held(values: Iterable[Value]) -> list[Value]:
    """Return values with an array; for one that was dropped, those that it was made from."""
    found, pending = [], list(values)
    while pending:
        value = pending.pop()
        if value.held is not None:
            found.append(value)
        elif value.op is not None:
            pending.extend(value.op.inputs)
    return found


def _go_together(op: Op, value: Value) -> bool:
    """Whether a value comes from the same call of `mx.vjp` as an op: the VJP of an op and its accumulations."""
    return value.op is not None and op.of is not None and value.op.of is op.of


def _differentiated(ops: list[Op]) -> set[Value]:
    return {leaf for pass_ in {op.pass_: None for op in ops} for leaf in pass_.wrt}


def drawn_keys(op: Op) -> Iterator[DrawnKey]:
    """Yield the keys that an op drew from the global random state."""
    yield from [arg for arg in (*op.args, *op.kwargs.values()) if isinstance(arg, DrawnKey)]
