"""Pairing: which op of one timeline is which of another, where an edit has added ops, or left some out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import field

from nnrepl.classes import dataclass
from nnrepl.tape import Op
from nnrepl.tape.origins import Activation

Key = tuple[str, int, int, int]
"""An operation, how many outputs it has, the number of its site, and how often that came before."""


@dataclass(slots=True)
class Pairs:
    """The program's ops on two timelines, side by side.

    Attributes:
        ops: The pairs.
        alone: The forward ops that are on the first timeline only, and those that are on the second only, as far as
            both go.
    """

    ops: list[tuple[Op, Op]] = field(default_factory=list)
    alone: tuple[list[Op], list[Op]] = field(default_factory=lambda: ([], []))


class Sites:
    """The numbers of sites: equal for ops that the same places of the source made, through the same calls.

    Code objects are no keys: a tape that was read from a file has others.
    """

    def __init__(self) -> None:
        self._numbers: dict[tuple[int, str, str, int, int], int] = {}
        self._calls: dict[Activation, int] = {}

    def of(self, op: Op) -> int:
        """Return the number of the site of an op; 0 where nothing is known of it."""
        return 0 if op.scope is None else self._number(self._call(op.scope), op.scope, op.lasti)

    def _call(self, scope: Activation) -> int:
        """Return the number of the site of a call: 0 at the bottom of the program."""
        waiting: list[Activation] = []
        one: Activation | None = scope
        while one is not None and one not in self._calls:
            waiting.append(one)
            one = one.parent
        for call in reversed(waiting):
            parent = call.parent
            self._calls[call] = 0 if parent is None else self._number(self._calls[parent], parent, call.lasti)
        return self._calls[scope]

    def _number(self, call: int, scope: Activation, lasti: int) -> int:
        code = scope.code
        key = (call, code.co_filename, code.co_name, code.co_firstlineno, lasti)
        return self._numbers.setdefault(key, len(self._numbers) + 1)


def align(before: Sequence[Op], after: Sequence[Op], sites: Sites, pairs: Pairs, ended: bool) -> None:
    """Pair the forward ops of a stretch of the program: those of the same site, each time that it comes.

    By order alone, a random draw that an edit has added would be paired with the next one, that with the one after it,
    and every later draw would look changed though it is the same. Order counts only between such pairs, for ops of
    sites that are not on the other side: another branch, or changed source.

    Args:
        ended: Whether both are whole; else what one has beyond the end of the other is not yet to be compared.
    """
    keys, theirs = _keys(before, sites), _keys(after, sites)
    places = {key: place for place, key in enumerate(theirs)}
    ours = set(keys)
    waiting: list[Op] = []
    at = 0
    for op, key in zip(before, keys):
        place = places.get(key)
        if place is None:
            waiting.append(op)
            continue
        _in_order(waiting, [after[n] for n in range(at, place) if theirs[n] not in ours], pairs, True)
        pairs.ops.append((op, after[place]))
        waiting, at = [], max(at, place + 1)
    _in_order(waiting, [after[n] for n in range(at, len(after)) if theirs[n] not in ours], pairs, ended)


def _in_order(before: Sequence[Op], after: Sequence[Op], pairs: Pairs, ended: bool) -> None:
    """Pair ops that have no site in common, in order, as long as they are the same operations; the others are alone."""
    count = 0
    for a, b in zip(before, after):
        if a.name != b.name or len(a.outputs) != len(b.outputs):
            break
        pairs.ops.append((a, b))
        count += 1
    rest = before[count:], after[count:]
    if ended or all(rest):
        pairs.alone[0].extend(rest[0])
        pairs.alone[1].extend(rest[1])


def _keys(ops: Sequence[Op], sites: Sites) -> list[Key]:
    seen: Counter[tuple[str, int, int]] = Counter()
    keys: list[Key] = []
    for op in ops:
        key = (op.name, len(op.outputs), sites.of(op))
        keys.append((*key, seen[key]))
        seen[key] += 1
    return keys
