"""Apart: numbers that a lesson needs before the student has seen them, computed beside the tape.

On the tape they stay what they were, not computed yet: else a stop would show the answer to a question that is open.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import mlx.core as mx

from nnrepl.explain.look import Look
from nnrepl.record.bounds import outside
from nnrepl.session.errors import UserError
from nnrepl.session.expressions import aside
from nnrepl.session.session import TapeSession
from nnrepl.tape import Value
from nnrepl.timeline.evaluation import pending


class Apart:
    """The arrays of values, computed again from their ops where they are not evaluated yet."""

    def __init__(self) -> None:
        self._made: dict[Value, mx.array] = {}

    def __call__(self, value: Value) -> mx.array:
        """Return the numbers of a value. Raises UserError where that would read outside of a tensor."""
        if value in self._made or value.evaluated or value.op is None or value.refusal:
            return self._of(value)
        ops = [op for op in pending([value]) or [] if not all(output in self._made for output in op.outputs)]
        found = outside(ops)
        if found is not None:
            raise UserError(found.text)
        with aside():
            for op in ops:
                if not op.refusal:
                    self._made.update(zip(op.outputs, op.compute(self._of)))
        return self._of(value)

    def _of(self, value: Value) -> mx.array:
        made = self._made.get(value)
        return value.array if made is None else made


class ApartLook(Look):
    """What an answer looks at, beside the tape."""

    def __init__(self, session: TapeSession, numbers: Apart) -> None:
        super().__init__(session)
        self._numbers = numbers

    def see(self, values: Iterable[Value]) -> None:
        """Nothing on the tape gets its numbers."""

    def array(self, value: Value) -> mx.array:
        """Return the numbers of a value."""
        return self._numbers(value)


@contextmanager
def apart(session: TapeSession) -> Iterator[Apart]:
    """While this lasts, expressions get their numbers beside the tape."""
    expressions, before = session.expressions, session.expressions.numbers
    numbers = before if isinstance(before, Apart) else Apart()
    expressions.numbers = numbers
    try:
        yield numbers
    finally:
        expressions.numbers = before
