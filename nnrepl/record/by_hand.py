"""By hand: whether a program that runs natively has changed its weights between two gradient calls.

Natively nobody sees `w = w - lr * g`. But a gradient call is given its weights: where these are other arrays than it
left behind the last time, or have been written into, something has changed them meanwhile.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from nnrepl.record import titles, trees
from nnrepl.tape import GRADIENT_PASS, ClosedOp, Pass, Tape
from nnrepl.tape.steps import is_update, weights_of


@dataclass(frozen=True, slots=True)
class Weights:
    """What a gradient call differentiates with respect to.

    Attributes:
        key: Tells one function, with its model, from others.
        given: The arrays that the call is given.
        left: Returns what the program has of them when the call is over.
    """

    key: Any
    given: list[mx.array]
    left: Callable[[], list[mx.array]]

    @classmethod
    def of(cls, fun: Callable[..., Any], given: list[mx.array]) -> Weights:
        """Return those of a function: of a model, which `nn.value_and_grad` fills anew, what it has afterwards."""
        model = titles.model_of(fun)
        code = titles.code_of(fun) or fun
        if model is None:
            return cls(code, given, lambda: given)
        return cls((code, id(model)), given, lambda: trees.arrays(model.trainable_parameters()))


class HandChanges:
    """Tells what has changed weights between gradient calls of the same function."""

    def __init__(self) -> None:
        self._held: dict[Any, tuple[list[weakref.ref[mx.array]], Pass]] = {}
        self._watched: dict[int, Any] = {}
        self._written: set[Any] = set()
        self._free: set[Any] = set()

    def hold(self, weights: Weights, pass_: Pass) -> None:
        """Note what a gradient call leaves behind."""
        key, left = weights.key, weights.left()
        if key not in self._free:
            self._written.discard(key)
            self._held[key] = ([weakref.ref(array) for array in left], pass_)
            self._watched = {at: of for at, of in self._watched.items() if of != key}
            self._watched.update(dict.fromkeys(map(id, left), key))

    def since(self, weights: Weights) -> tuple[Pass, bool] | None:
        """Return the gradient call before, of the same function, and whether its weights have changed since; None where
        that is not known."""
        found = self._held.pop(weights.key, None)
        if found is None:
            return None
        held, pass_ = found
        given = weights.given
        same = len(held) == len(given) and all([ref() is array for ref, array in zip(held, given)])
        return pass_, not same or weights.key in self._written

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
        key = self._watched.get(id(array))
        if key is not None:
            self._written.add(key)

    def forget(self) -> None:
        """Note that weights are changed by what is seen: an optimizer, or ops that are recorded."""
        if self._held:
            self._held.clear()
            self._watched.clear()


def _updated_after(tape: Tape, since: Pass) -> bool:
    weights = set(weights_of(since))
    for pass_ in reversed(tape.passes):
        if pass_ is since:
            return False
        if pass_.kind != GRADIENT_PASS and is_update(pass_, weights):
            return True
    return False
