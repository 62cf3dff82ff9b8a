"""Closed losses: what becomes of the losses of closed calls, and of their gradients where ops are recorded next."""

from __future__ import annotations

import weakref
from typing import Any

import mlx.core as mx

from nnrepl.record.closing import NotedCalls
from nnrepl.record.kept_number import KeptNumber
from nnrepl.record.recorder import Recorder
from nnrepl.tape import ClosedOp, Value, is_evaluated

_copy, _array, _ref = mx.array.__copy__, mx.array, weakref.ref


class ClosedLosses:
    """The losses of closed calls: kept for ever once the program has evaluated them, else only as long as it holds
    them itself, since one that is not evaluated keeps all that it is made of."""

    def __init__(self) -> None:
        self._op: ClosedOp | NotedCalls | None = None
        self._loss: weakref.ref[mx.array] | None = None
        self._asked = False
        self._unread: list[KeptNumber | NotedCalls] = []

    def made(self, op: ClosedOp | NotedCalls, loss: Any) -> None:
        """Note that a call has returned a loss."""
        if isinstance(loss, _array) and loss.size == 1:
            self._op, self._loss, self._asked = op, _ref(loss), False
        else:
            self._op = self._loss = None

    def fresh(self) -> tuple[ClosedOp, mx.array] | None:
        """Return the last one, whether it has been evaluated or not, with its call; None if it has been asked for
        before."""
        loss, op = self._now(), self._op
        if loss is None or not isinstance(op, ClosedOp) or self._asked:
            return None
        self._asked = True
        return op, loss

    def arrived(self) -> None:
        """Note that calls may lie on the tape now that were noted before."""
        noted = self._op
        if isinstance(noted, NotedCalls) and noted.op is not None:
            self._op = noted.op

    def _now(self) -> mx.array | None:
        return None if self._loss is None else self._loss()

    def read(self, array: mx.array) -> None:
        """Note that the program has read the number of an array, and may let go of it now: `loss = loss.item()`."""
        if self._loss is not None and self._loss() is array:
            self.settle()

    def settle(self) -> None:
        """Keep the last one, if its number is there. It is asked at every step."""
        known, made = self._loss, self._op
        loss = None if known is None else known()
        if loss is None or made is None or not is_evaluated(loss):
            return
        if isinstance(made, ClosedOp):
            if not made.outputs:
                self._keep(made, loss, True)
        elif made.loss is None:
            made.loss = _copy(loss)  # `loss += 1` of the program's would change the object it has
            self._unread.append(made)
            if len(self._unread) == _BATCH:
                self._read()

    def _read(self) -> None:
        for one in self._unread:
            one.read()
        self._unread.clear()

    def look(self) -> None:
        """Compute the last one, and keep it."""
        loss = self._now()
        if loss is not None:
            mx.eval(loss)
            self.settle()

    def link(self, recorder: Recorder) -> None:
        """Ops are recorded again: what they take of the last one, and what variables hold of it, is known as that."""
        assert recorder.tape.ops is not None  # what is noted of calls comes to lie there
        loss, op = self._now(), self._op
        if loss is not None and isinstance(op, ClosedOp):
            recorder.link(loss, op.outputs[0] if op.outputs else self._keep(op, loss, is_evaluated(loss)))

    def _keep(self, op: ClosedOp, loss: mx.array, evaluated: bool) -> Value:
        value: Value
        if evaluated and not loss.ndim:
            value = KeptNumber(op, _copy(loss))
            self._unread.append(value)
            if len(self._unread) == _BATCH:
                self._read()
        else:
            value = Value(op, 0, _copy(loss))
        op.outputs, op.pass_.loss = (value,), value
        return value


def loss_value(op: ClosedOp, loss: mx.array) -> Value:
    """Return the loss of a call that has been closed, which has been evaluated."""
    if loss.ndim:
        return Value(op, 0, loss)
    kept = KeptNumber(op, _copy(loss))
    kept.read()
    return kept


_BATCH = 64
"""So many losses are read at a time."""


def gives(result: Any) -> str:
    """How a call gives its loss: "first" in a tuple, or "alone"."""
    return "first" if isinstance(result, tuple) and result and isinstance(result[0], tuple) else "alone"


def loss_of(result: Any) -> Any:
    """Return the loss in what `value_and_grad` returns: the value, or the first of several."""
    loss = result[0] if isinstance(result, tuple) and result else None
    return loss[0] if isinstance(loss, (tuple, list)) and loss else loss
