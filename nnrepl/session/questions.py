"""Questions: conditions and watched expressions, asked lazily so that many can be evaluated at once."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import mlx.core as mx

from nnrepl.classes import dataclass
from nnrepl.record.intake import Unwinding
from nnrepl.session.conditions import named_in
from nnrepl.session.errors import NoGradient, NotYet, UserError
from nnrepl.session.findings import Changed, Failed, Finding
from nnrepl.session.parsed import Parsed
from nnrepl.session.place import ordered
from nnrepl.session.points import Written
from nnrepl.session.reading import Reading
from nnrepl.tape import Activation, Value


@dataclass(frozen=True, slots=True)
class Question:
    """Whether something is so.

    Attributes:
        values: Values of the tape that must be evaluated first.
        arrays: Then these, all at once.
        answer: Then this tells: False, True, or what was found.
    """

    values: Sequence[Value]
    arrays: Sequence[mx.array]
    answer: Callable[[], Finding | bool]

    @staticmethod
    def known(answer: Finding | bool) -> Question:
        """Return a question that is answered already."""
        return Question((), (), lambda: answer)

    @staticmethod
    def change(session: Reading, parsed: Parsed, position: int) -> Question:
        """Whether an expression has another value at `position` than just before."""
        text = parsed.text
        after, used = _value(session, parsed, position)
        before, used_before = _value(session, parsed, position - 1)
        if isinstance(after, (NotYet, NoGradient)):
            return Question.known(False)
        op = session.tape.ops[position - 1] if 0 < position <= len(session.tape) else None
        if op is None or not any(value.op is op for value in used):
            new = [value for value in used if value not in used_before]  # a model was given what had been made before
            op = new[0].op if len(new) == 1 else None
        if isinstance(before, UserError) or isinstance(after, UserError):
            before = None if isinstance(before, UserError) else before
            found: Finding = (
                Failed(text, str(after)) if isinstance(after, UserError) else Changed(text, op, before, after)
            )
            return Question([] if isinstance(after, UserError) else used, (), lambda: found)
        change = Changed(text, op, before, after)
        if isinstance(before, mx.array) and isinstance(after, mx.array):
            from nnrepl.record.verify import same_bits

            same = same_bits(before, after)
            return Question([*used, *used_before], [same], lambda: False if same.item() else change)
        return Question.known(False if _equal(before, after) else change)


def _equal(before: Any, after: Any) -> bool:
    try:
        return bool(before == after)
    except (ValueError, TypeError):
        return before is after


def _value(session: Reading, parsed: Parsed, position: int, call: Activation | None = None) -> tuple[Any, list[Value]]:
    """Return the value of an expression as seen from a position (a UserError if it has none there), not evaluated: in a
    call around it, where one is meant."""
    if position < 0:
        return NotYet(parsed.text), []
    expressions = session.expressions
    try:
        result = expressions.evaluate(parsed, session.where_at(position, call))
    except UserError as error:
        return error, []
    except Unwinding:
        raise
    except NameError as error:
        return NotYet(str(error)), []
    except Exception as error:  # the user's own expression: what it raises is the answer
        return UserError(traceback.format_exception_only(type(error), error)[-1].strip()), []
    return result, expressions.used()


def ask_condition(
    session: Reading, parsed: Parsed, position: int, note: Callable[[str], None], call: Activation | None = None
) -> Question:
    """Whether a condition is true as seen from a position; in the call that its place means, if it means one.

    A value that lies ahead makes it not true (`note` is told); any other failure is a hit, and said.
    """
    text = parsed.text
    result, used = _value(session, parsed, position, call)
    if isinstance(result, (NotYet, NoGradient)):
        note(str(result))
        return Question.known(False)
    if isinstance(result, UserError):
        return Question.known(Failed(text, str(result)))
    if not isinstance(result, mx.array):
        try:
            return Question.known(bool(result))
        except (ValueError, TypeError) as error:
            return Question.known(Failed(text, str(error)))
    if result.size != 1:
        return Question.known(Failed(text, f"it gives {result.size} numbers; write .any() or .all() after it"))
    return Question(used, [result], lambda: bool(result.item()))


# -- watches -------------------------------------------------------------------------------------------------


def watched(session: Reading, parsed: Parsed, start: int, end: int, reverse: bool) -> Iterator[int]:
    """Where an expression may change: just after each op that makes one of its values, or with a pass that
    brings one. A parameter that enters a new pass as it left the last one is passed over."""
    tape, names = session.tape, session.names
    plain, gradients = named_in(parsed, names)
    written = [Written(name, name, names) for name in plain]
    written += [Written(name, name, names, gradient=True) for name in gradients]
    return ordered((at for each in written for at in each.comes(tape, start)), start, end, reverse)
