"""Glance: what one look at each op of a tape tells, without resolving any name: which arrays came in as leaves, and
which words can be names at all. A look costs less than a microsecond an op; to index its names costs thirty times that.
"""

from __future__ import annotations

from types import CodeType
from typing import Any

from nnrepl.tape import Activation, Leaf, Op, Tape, Value

_SOON = 8
"""Ops after which one takes a leaf that has come in, as a rule."""


class Glance:
    """What has been seen of one tape, which may grow."""

    def __init__(self, tape: Tape) -> None:
        self._tape = tape
        self._seen = 0
        self._labelled = 0
        self._leaves: dict[int, Value] = {}
        self._scopes: set[Activation] = set()
        self._codes: set[CodeType] = set()
        self._words: set[str] = set()
        self.labels: dict[str, None] = {}

    def leaf_of(self, array: Any) -> Value | None:
        """Return the leaf that an array object came in as."""
        latest = self._tape.notes.leaves.get(id(array))
        if latest is not None and latest.held is array and self._is_taken(latest):
            return latest
        self._look()
        leaf = self._leaves.get(id(array))
        return leaf if leaf is not None and leaf.held is array else None

    def may_be(self, name: str) -> bool:
        """Whether something on the tape can be called so. False is certain."""
        self._look()
        last = name.rpartition(".")[2]
        return last.isdigit() or last in self._words

    def _is_taken(self, leaf: Leaf) -> bool:
        """Whether one of the ops right after a leaf came in takes it, on this tape. True is certain."""
        at, ops = leaf.entered, self._tape.ops
        if any([leaf in op.inputs for op in ops[at : at + _SOON]]):
            return True
        return at < len(ops) and leaf in ops[at].pass_.wrt

    def _look(self) -> None:
        ops = self._tape.ops
        for op in ops[self._seen :]:
            for value in (*op.inputs, *op.pass_.wrt) if op.position == op.pass_.start else op.inputs:
                if value.op is None:
                    self._enter(value)
            self._read(op)
        self._seen = len(ops)
        labels = self._tape.notes.labels
        if len(labels) != self._labelled:
            self._labelled = len(labels)
            for label in labels.values():
                self._spell(label)

    def _enter(self, leaf: Value) -> None:
        if leaf.held is not None:
            self._leaves[id(leaf.held)] = leaf
        if leaf.label is not None:
            self._spell(leaf.label)

    def _spell(self, label: str) -> None:
        if label not in self.labels:
            self.labels[label] = None
            self._words.add(label.rpartition(".")[2])

    def _read(self, op: Op) -> None:
        """Gather the words in the code of the calls that made an op: an optimizer's state has its names in strings."""
        scope = op.scope
        while scope is not None and scope not in self._scopes:
            self._scopes.add(scope)
            code = scope.code
            if code not in self._codes:
                self._codes.add(code)
                strings = [word for word in code.co_consts if isinstance(word, str)]
                self._words.update(code.co_varnames, code.co_names, code.co_freevars, code.co_cellvars, strings)
            scope = scope.parent
