"""Numbering: which numbers closed calls have as passes, and what comes after them that updates weights.

Natively nobody sees what the program does between two calls, which may be a pass of its own (what makes a batch, an
update by hand). So passes are counted as in the steps that were recorded: as many between the same calls, made from
the same places; and what updated weights there is expected to do so again.
"""

from __future__ import annotations

from collections.abc import Callable
from types import CodeType

from nnrepl.installed import is_library, is_mlx
from nnrepl.tape import GRADIENT_PASS, RUN_PASS, SETUP_PASS, UPDATE_PASS, Activation, ClosedOp, Op, Pass, Tape

Place = tuple[int, int]
"""Where in the program's own code a call is made: the identity of the code (to compare code takes long), and where."""
Key = tuple[int, Place, Place]
"""The how manyth call since the last update the later one is, and from where both are made."""
Turn = tuple[int, Place]
"""The how manyth call since the last update a gradient call is, and from where it is made."""
_State = tuple[int, Place, str, bool]
"""Where in a step a call stands: the how manyth it is, from where, of which kind, and what comes after it."""
_Called = tuple[str, Activation | None, int]
"""Of which kind a call is, and from where it is made."""
_Way = tuple[int, int, Place, str, "dict[_Called, _Way]"]
"""By how much its number is larger than the one before; the rest of its state; what is expected to update weights
after it; and what comes next."""
Way = dict[_Called, _Way]
"""What comes next."""
State = tuple[int, Place, str, Way]
"""Where in a step a call stands: the how manyth it is, from where, what is expected to update weights after the last
gradient call, and what comes next."""
_WAYS = 256
BY_OPTIMIZER, BY_HAND, NOTHING = "optimizer", "hand", "nothing"
"""What updates weights between a gradient call and the next call."""


class Numbering:
    """Counts the passes of a tape where some were not recorded.

    Attributes:
        seen: Whether all was recorded that came before the closed call that is made next.
        update: What is expected to update weights after the last gradient call that has been put on the tape closed.
    """

    def __init__(self) -> None:
        self._tape: Tape | None = None
        self._more: dict[Key, int] = {}
        self._updates: dict[Turn, str] = {}
        self._by_hand = False
        self._learnt = 0
        self._last: Pass | None = None
        self._last_place: Place = (0, -1)
        self._since = 0
        self._ways: dict[_State, dict[_Called, _Way]] = {}
        self._way: dict[_Called, _Way] | None = None
        self.seen = False
        self.update = ""

    def learn(self, tape: Tape) -> None:
        """Look at what has been recorded since the last time."""
        self._way = None
        self._ways.clear()
        if tape is not self._tape:
            self._tape, self._last, self._since, self._learnt, self._by_hand = tape, None, 0, 0, False
        for pass_ in tape.passes[self._learnt :]:
            if pass_.open:
                break
            self._learnt += 1
            if _is_call(pass_):
                self._follow(pass_, pass_.number - self._last.number if self._last is not None else 0)
            elif pass_.kind == UPDATE_PASS and self._last is not None:
                self._by_hand = self._by_hand or pass_ in pass_.step.updates

    def cut(self, before: int, fewer: int, stands_for: Callable[[Pass], Pass]) -> None:
        """Note that there are fewer passes on the tape after some, which have been looked at, and others stand for what
        they were."""
        self._last = None if self._last is None else stands_for(self._last)
        self._learnt = max(self._learnt - fewer, before) if self._learnt > before else self._learnt

    def number(self, tape: Tape, pass_: Pass) -> None:
        """Give a closed call its number, whose pass is about to be put on the tape, and note what is expected to update
        weights between it, if it is a gradient call, and the next one."""
        before = tape.passes[-1] if tape.passes else None
        if self._way is not None and before is self._last and not self.seen:
            way = self._way.get((pass_.kind, pass_.scope, pass_.lasti))
            if way is not None:  # as in the steps before
                self._go(pass_, way)
                return
        if pass_.kind == SETUP_PASS:
            return  # all that comes before the first forward pass is number 0
        if pass_.kind == RUN_PASS and before is not None and before.kind == RUN_PASS and _is_closed(before):
            pass_.number = before.number  # one stretch of the program, of which each turn is closed by itself
            return
        if before is not None and (self.seen or before is not self._last):
            self.learn(tape)
        place, ordinal = _place_of(pass_, closed=True), self._ordinal(pass_)
        if before is None:
            pass_.number = 1
        elif self.seen:
            pass_.number = before.number + 1
            if self._last is not None:
                self._more[ordinal, self._last_place, place] = pass_.number - self._last.number
                self._learn_update(pass_)
        else:
            known = before is self._last
            pass_.number = before.number + (self._more.get((ordinal, self._last_place, place), 1) if known else 1)
        self.seen = self.seen and before is None
        if pass_.kind == GRADIENT_PASS:
            self.update = self._updates.get((ordinal, place), "")
            pass_.by_hand = self.update == BY_HAND
        if before is self._last is not None and pass_.kind != RUN_PASS:  # so that it need not be learnt
            came = self._way
            self._learnt += 1
            self._last, self._last_place, self._since, self._by_hand = pass_, place, ordinal, False
            self._way = self._known_way(pass_)
            if came is not None and self._way is not None and before is not None and not self.seen:
                if len(came) > _WAYS:
                    came.clear()
                more = pass_.number - before.number
                came[pass_.kind, pass_.scope, pass_.lasti] = more, ordinal, place, self.update, self._way

    def _known_way(self, pass_: Pass) -> dict[_Called, _Way] | None:
        """Return what came after a call like the last one, in the same place of a step."""
        if pass_.kind not in (GRADIENT_PASS, UPDATE_PASS):
            return None
        if len(self._ways) > _WAYS:
            self._ways.clear()  # calls that never come from the same place
        return self._ways.setdefault((self._since, self._last_place, pass_.kind, pass_.by_hand), {})

    def _go(self, pass_: Pass, way: _Way) -> None:
        """Give a call its number that comes where one like it came before."""
        more, self._since, self._last_place, update, self._way = way
        pass_.number = self._last.number + more  # type: ignore[union-attr]  # there is one before
        if pass_.kind == GRADIENT_PASS:
            self.update, pass_.by_hand = update, update == BY_HAND
        self._learnt += 1
        self._last, self._by_hand = pass_, False

    def way(self, tape: Tape) -> Way | None:
        """Return what came after calls like the last one on a tape; None where that does not tell what comes next."""
        if self.seen or self._way is None or not tape.passes or tape.passes[-1] is not self._last:
            return None
        return self._way

    @property
    def state(self) -> State | None:
        """Where the last call stands; None where that does not tell what comes next."""
        return None if self._way is None else (self._since, self._last_place, self.update, self._way)

    def went(self, last: Pass, state: State, count: int, update: str | None) -> None:
        """Note that calls have been put on the tape, as calls like them before.

        Args:
            last: The last one; `state`: where it stands.
            count: How many there are.
            update: What is expected to update weights after the last gradient call among them; None if there is none.
        """
        self._since, self._last_place, _, self._way = state
        if update is not None:
            self.update = update
        self._learnt += count
        self._last, self._by_hand = last, False

    def expected(self, scope: Activation | None, lasti: int) -> str:
        """Return what is expected to update weights after the first gradient call of a step, made from a place."""
        if scope is None or scope.updating or is_library(scope.code.co_filename):
            return ""
        return self._updates.get((0, (id(scope.code), lasti)), "")

    def between(self, before: Pass, pass_: Pass) -> int:
        """By how much the number of a call is larger than that of the pass before it on the tape."""
        if before is not self._last:
            self.learn(before.tape)
        key = self._ordinal(pass_), self._last_place, _place_of(pass_)
        return self._more.get(key, 1) if before is self._last else 1

    def _learn_update(self, pass_: Pass) -> None:
        """Note what has updated weights between the last call and the one that comes now, which has been seen."""
        last = self._last
        if last is not None and last.kind == GRADIENT_PASS and not _is_closed(last):
            found = BY_HAND if self._by_hand else BY_OPTIMIZER if pass_.kind == UPDATE_PASS else NOTHING
            self._updates[self._since, self._last_place] = found

    def _ordinal(self, pass_: Pass) -> int:
        last = self._last
        if last is None:
            return 0
        turn = (last.kind == UPDATE_PASS or last.by_hand or self._by_hand) and pass_.kind == GRADIENT_PASS
        return 0 if turn else self._since + 1

    def _follow(self, pass_: Pass, more: int) -> None:
        place, ordinal = _place_of(pass_), self._ordinal(pass_)
        if self._last is not None and not _is_closed(pass_) and not _is_closed(self._last):
            self._more[ordinal, self._last_place, place] = more
            self._learn_update(pass_)
        self._last, self._last_place, self._since, self._by_hand = pass_, place, ordinal, False


def _is_call(pass_: Pass) -> bool:
    """Whether a pass would be a closed call, or be part of one, if it had run natively: no arithmetic by hand."""
    if pass_.kind == GRADIENT_PASS or not len(pass_):
        return bool(len(pass_))
    return pass_.kind == UPDATE_PASS and (_last_by_optimizer(pass_) is not None or _is_closed(pass_))


def _last_by_optimizer(pass_: Pass) -> Op | None:
    """Return the last op of a pass that an optimizer makes: sums of gradients may come before it, and what is made of
    gradients in order to be printed behind it."""
    ops = pass_.tape.ops[pass_.start : pass_.end]
    return next((op for op in reversed(ops) if op.scope is not None and op.scope.updating), None)


def _is_closed(pass_: Pass) -> bool:
    return len(pass_) == 1 and isinstance(pass_.tape.ops[pass_.start], ClosedOp)


def own_place(pass_: Pass) -> tuple[Activation | None, CodeType | None, int]:
    """Where in the program's own code a pass was called: the call, its code, and where in that."""
    return _place(pass_, is_library)


def _place_of(pass_: Pass, closed: bool = False) -> Place:
    scope = pass_.scope
    direct = closed or pass_.kind == GRADIENT_PASS
    if direct and scope is not None and not (scope.updating or is_library(scope.code.co_filename)):
        return id(scope.code), pass_.lasti  # as mostly
    _, code, lasti = own_place(pass_)
    return id(code), lasti


def called_from(pass_: Pass) -> tuple[Activation | None, int]:
    """Where a pass was called, by the program or by a library of which MLX is none (a trainer). An update by hand is
    where it ends: whether the turn of a loop goes on is told from there."""
    by_hand = pass_.kind == UPDATE_PASS and _last_by_optimizer(pass_) is None
    scope, _, lasti = _place(pass_, is_mlx, pass_.ops[-1] if by_hand else None)
    return scope, lasti


def _place(
    pass_: Pass, is_passed: Callable[[str], bool], last: Op | None = None
) -> tuple[Activation | None, CodeType | None, int]:
    scope, lasti = pass_.scope, pass_.lasti
    last = _last_by_optimizer(pass_) if pass_.kind == UPDATE_PASS and last is None else last
    if last is not None:
        scope, lasti = last.scope, last.lasti
    while scope is not None and (scope.updating or is_passed(scope.code.co_filename)):
        lasti, scope = scope.lasti, scope.parent
    return scope, None if scope is None else scope.code, lasti
