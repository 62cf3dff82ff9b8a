"""By hand: whether a program that runs natively has changed its weights between two gradient calls.

Natively nobody sees `w = w - lr * g`. But a gradient call is given its weights: where these are other arrays than it
left behind the last time, or have been written into, something has changed them meanwhile.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import mlx.core as mx

from nnrepl.record import titles, trees
from nnrepl.record.closing import NotedCalls
from nnrepl.tape import GRADIENT_PASS, ClosedOp, Pass, Tape
from nnrepl.tape.steps import is_update, weights_of

_ARRAYS = {mx.array}


class Weights:
    """What a gradient call differentiates with respect to. It is made for each call, and looked at for few.

    Args:
        fun: The function that is differentiated.
        given: Returns what the call is given of it: trees of arrays.
        whose: What `whose` says of the function, if it was asked before.
    """

    __slots__ = ("_alone", "_fun", "_given", "_whose")

    def __init__(self, fun: Callable[..., Any], given: Callable[[], Any], whose: tuple[Any, Any] | None = None) -> None:
        self._fun = fun
        self._given = given
        self._whose = whose
        self._alone: list[mx.array] | None = None

    @property
    def key(self) -> Any:
        """Tells one function, with its model, from others."""
        known = self._whose
        if known is None:
            known = self._whose = whose(self._fun)
        return known[1]

    @property
    def given(self) -> list[mx.array]:
        """The arrays that the call is given."""
        if self._alone is not None:
            return self._alone
        given = self._given()
        if type(given) is not list or set(map(type, given)) != _ARRAYS:
            return trees.arrays(given)  # what holds arrays may hold others when the call is over
        self._alone = [*given]
        return self._alone

    def left(self) -> list[mx.array]:
        """Return what the program has of them when the call is over: of a model, which `nn.value_and_grad` fills anew,
        what it has then, with what of it is not differentiated."""
        model = (self._whose or whose(self._fun))[0]
        return self.given if model is None else trees.arrays(model)


def whose(fun: Callable[..., Any]) -> tuple[Any, Any]:
    """Return the model of a function that is differentiated (None if it has none), and what tells the two from
    others."""
    model, code = titles.model_of(fun), titles.code_of(fun) or fun
    return model, code if model is None else (code, id(model))


class _Left:
    """What a gradient call has left behind.

    Args:
        arrays: The arrays of its weights, and others of the same model.
        pass_: The call; where it is not on the tape yet, what is noted of it.
        closed: Whether it ran natively.
    """

    def __init__(self, arrays: list[mx.array], pass_: Pass | NotedCalls, closed: bool) -> None:
        self.pass_ = pass_
        self.closed = closed
        self._refs = list(map(weakref.ref, arrays))
        self._ids: set[int] | None = None
        self._written: list[weakref.ref[mx.array]] = []

    def is_still(self, given: list[mx.array]) -> bool:
        """Whether weights that are given now are these, in this order, and have not been written into."""
        refs = self._refs
        if len(given) == len(refs):  # as mostly
            for ref, array in zip(refs, given):
                if ref() is not array:
                    return False
        else:
            left = iter(refs)
            # One iterator for all: each is looked for behind the one before. What is not differentiated may lie
            # between.
            if not all([any(ref() is array for ref in left) for array in given]):
                return False
        return not (self._written and any(ref() is array for ref in self._written for array in given))

    def hold(self, arrays: list[mx.array], pass_: Pass | NotedCalls) -> None:
        """Note what the next call of the same function leaves behind, which ran natively."""
        self.pass_ = pass_
        self._refs = list(map(weakref.ref, arrays))
        self._ids = None
        if self._written:
            self._written = []

    def write(self, array: mx.array) -> None:
        """Note that an array is about to be changed in place."""
        if self._ids is None:
            self._ids = {id(ref()) for ref in self._refs}
        if id(array) in self._ids and not any(ref() is array for ref in self._written):
            self._written.append(weakref.ref(array))


class HandChanges:
    """Tells what has changed weights between gradient calls of the same function.

    Attributes:
        held: What is known of gradient calls that left weights behind, by the function.
    """

    def __init__(self) -> None:
        self.held: dict[Any, _Left] = {}
        self._free: set[Any] = set()

    @property
    def knows(self) -> bool:
        """Whether there is a gradient call of which is known what it left behind."""
        return bool(self.held)

    def hold(self, weights: Weights, pass_: Pass | NotedCalls, closed: bool = False) -> None:
        """Note what a gradient call leaves behind, which ran natively, or was recorded."""
        key = weights.key
        if key not in self._free:
            self.held[key] = _Left(weights.left(), pass_, closed)

    def are_expected(self, weights: Weights) -> bool:
        """Whether what has become of the weights is what was expected, since the call before of the same function ran
        natively."""
        left = self.held.get(weights.key)
        return left is not None and left.closed and left.pass_.by_hand != left.is_still(weights.given)

    def hold_again(self, weights: Weights, noted: NotedCalls) -> None:
        """Note what a gradient call leaves behind that ran natively, as the one before of the same function did."""
        left = self.held.get(weights.key)
        if left is None:
            self.hold(weights, noted, closed=True)
        else:
            left.hold(weights.left(), noted)

    def forget_of(self, weights: Weights) -> None:
        """Note that the next gradient call of a function is made."""
        self.held.pop(weights.key, None)

    def arrived(self) -> None:
        """Note that calls may lie on the tape now that were noted before."""
        for left in self.held.values():
            noted = left.pass_
            if isinstance(noted, NotedCalls) and noted.op is not None:
                left.pass_ = noted.op.pass_

    def cut(self, stands_for: Callable[[Pass], Pass]) -> None:
        """Note that other passes stand on the tape for some."""
        for left in self.held.values():
            if isinstance(left.pass_, Pass):
                left.pass_ = stands_for(left.pass_)

    def since(self, weights: Weights) -> tuple[Pass, bool] | None:
        """Return the gradient call before, of the same function, and whether its weights have changed since; None where
        that is not known."""
        left = self.held.pop(weights.key, None)
        if left is None:
            return None
        assert isinstance(left.pass_, Pass)  # who asks has looked at the tape
        return left.pass_, not left.is_still(weights.given)

    def unexpected(self, weights: Weights) -> Pass | None:
        """Return the gradient call before, of the same function, if something else has become of its weights than was
        expected. Where that call was recorded, and what it differentiates by is something else each time though no
        update has made it (a batch), this tells nothing from now on."""
        found = self.since(weights)
        if found is None:
            return None
        pass_, changed = found
        if isinstance(pass_.tape.ops[pass_.start], ClosedOp):
            return pass_ if changed != pass_.by_hand else None
        if changed and not _updated_after(pass_.tape, pass_):
            self._free.add(weights.key)
        return None

    def write(self, array: mx.array) -> None:
        """Note that an array is about to be changed in place."""
        for left in self.held.values():
            left.write(array)

    def forget(self) -> None:
        """Note that weights are changed by what is seen: an optimizer, or ops that are recorded."""
        self.held.clear()


def _updated_after(tape: Tape, since: Pass) -> bool:
    weights = set(weights_of(since))
    for pass_ in reversed(tape.passes):
        if pass_ is since:
            return False
        if pass_.kind != GRADIENT_PASS and is_update(pass_, weights):
            return True
    return False
