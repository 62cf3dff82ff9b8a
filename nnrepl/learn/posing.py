"""Posing: a question of a lesson, with the answer that the tape gives to it, and what to say to each wrong one."""

from __future__ import annotations

import math
from dataclasses import field, replace
from typing import Any

from nnrepl.classes import dataclass
from nnrepl.explain.doing import in_numbers
from nnrepl.learn import answers, rules, wrong_products  # noqa: F401  # they enter themselves
from nnrepl.learn.answers import CHOICE, NAMES, NUMBER, NUMBERS, SHAPE, YES_NO, NoAnswer, Typed, kind_of, near, same
from nnrepl.learn.apart import Apart, ApartLook, apart
from nnrepl.learn.asking import Asked, ask, filled, holds
from nnrepl.learn.lesson import LessonQuestion
from nnrepl.learn.mistakes import Mistake, mistakes
from nnrepl.learn.reasons import counted, evidence, why_no_member, why_not
from nnrepl.learn.slips import slips
from nnrepl.learn.wrong_shapes import reply_to_shape, shape_mistakes
from nnrepl.session.errors import UserError
from nnrepl.session.session import TapeSession
from nnrepl.tape import Value


@dataclass(slots=True)
class Posed:
    """A question with its answer.

    Attributes:
        question: As it stands in the lesson, with the numbers of the tape in its hints and in what follows.
        text: What is asked, with the numbers of the tape.
        kind: What kind of answer it wants.
        answer: The right one.
        mistakes: The wrong ones that are known, the author's first.
        known: What there is to choose from: options, or names.
        where: The command that shows how the number comes about; "" where there is none.
        worked: How it comes about, in a line of numbers; "" where there is none.
        seen: Whether the number has been computed already where it is asked for: it may stand on the screen.
    """

    question: LessonQuestion
    text: str
    kind: str
    answer: Any
    mistakes: list[Mistake] = field(default_factory=list)
    known: tuple[str, ...] = ()
    where: str = ""
    worked: str = ""
    seen: bool = False

    @property
    def told(self) -> str:
        """The right answer, as it is told."""
        return answers.shown(self.answer, self.kind, self.known)

    @property
    def typed(self) -> str:
        """The right answer, as a student would type it."""
        return str(self.answer) if self.kind == CHOICE else self.told

    def read(self, text: str) -> Typed:
        """Read an answer. Raises Unreadable."""
        return answers.read(text, self.kind, self.known)

    def is_right(self, typed: Typed) -> bool:
        """Whether an answer is the right one: as near to it as can be expected, and nearer than to any mistake."""
        if not same(typed, self.answer, self.kind):
            return False
        if self.kind != NUMBER:
            return True
        off = abs(typed.value - self.answer)
        return not any(isinstance(it.value, float) and abs(typed.value - it.value) < off for it in self.mistakes)

    def reply(self, typed: Typed) -> str:
        """Return what to say to a wrong answer; "" where nothing is known of it."""
        if self.kind == NUMBER:
            return self._reply_to_number(float(typed.value))
        if self.kind == NAMES:
            return self._reply_to_names(typed.value)
        known = next((it.said for it in self.mistakes if it.value == typed.value), "")
        if known or self.kind not in (SHAPE, NUMBERS):
            return known
        return reply_to_shape(typed.value, tuple(self.answer)) if self.kind == SHAPE else self._reply_to_list(typed)

    def _reply_to_names(self, given: frozenset[str]) -> str:
        """Which do not belong to it, why the first of them does not, and how many are missing."""
        missing, more = set(self.answer) - given, sorted(given - set(self.answer))
        said = [f"{', '.join(more)} {'does' if len(more) == 1 else 'do'} not belong to it"] if more else []
        counted = "; ".join(said + ([f"{len(missing)} missing"] if missing else []))
        why = next((it.said for it in self.mistakes if it.value in more[:1] and it.said), "")
        return f"{counted}. {why}".strip()

    def _reply_to_number(self, given: float) -> str:
        known = [it for it in self.mistakes if near(given, float(it.value))]
        if known:
            return min(known, key=lambda it: abs(it.value - given)).said
        if abs(given - self.answer) <= 0.2 * abs(self.answer):
            return "Near, but not it: look over the arithmetic."
        if math.isnan(given) or math.isnan(self.answer) or given == self.answer:
            return ""
        turned = " Its sign is another, too." if given * self.answer < 0 else ""
        return f"Not so: it is {'less' if given > self.answer else 'more'} than that.{turned}"

    def _reply_to_list(self, typed: Typed) -> str:
        """Return what is wrong with several numbers: how many there are, their order, their signs, or which of them."""
        given, right = tuple(typed.value), tuple(self.answer)
        if len(given) != len(right):
            return f"There are {len(right)} of them, not {len(given)}."
        good = [near(a, b) for a, b in zip(given, right)]
        if all(near(a, b) for a, b in zip(given[::-1], right)):
            return "They are the other way round."
        if all(near(-a, b) for a, b in zip(given, right)):
            return "The sizes are right; look at the signs."
        wrong = ", ".join(str(at) for at, is_good in enumerate(good, 1) if not is_good)
        return (
            f"{sum(good)} of {len(good)} are right; look at number {wrong}." if any(good) else "None of them is right."
        )


def pose(session: TapeSession, question: LessonQuestion) -> Posed:
    """Work out the answer to a question where the session stands.

    Raises:
        UserError: If it cannot be worked out, or is no answer that one could type.
    """
    with apart(session) as numbers:
        return _pose(session, question, numbers)


def _pose(session: TapeSession, question: LessonQuestion, numbers: Apart) -> Posed:
    text = filled(session, question.text)
    hints = [filled(session, hint) for hint in question.hints]
    question = replace(question, hints=hints, after=filled(session, question.after))
    if question.options:
        return _choice(session, question, text)
    found = ask(session, question.answer)
    try:
        kind = kind_of(found.result)
    except NoAnswer as error:
        raise UserError(f"{question.answer}: {error}") from None
    posed = Posed(question, text, kind, found.result, _given(session, question, kind, found.result))
    if kind == NUMBER and found.value is not None:
        look = ApartLook(session, numbers)
        posed.mistakes += _others(mistakes(look, found.value, found.index), posed.mistakes)
        posed.where, posed.worked = _explained(found), in_numbers(look, found.value, found.index)
        posed.seen = _is_seen(session, found.value)
    elif kind == NUMBER:
        posed.mistakes += _others(slips(session, question.answer, float(found.result)), posed.mistakes)
        if type(found.result) is int:
            posed.mistakes += _others(counted(session, question.answer, found.result), posed.mistakes)
        posed.mistakes += _others(_of_a_number(found), posed.mistakes)
    elif kind == SHAPE:
        found_of = shape_mistakes(session, question.answer, tuple(found.result))
        posed.mistakes += [it for it in found_of if all(it.value != other.value for other in posed.mistakes)]
    elif kind == NAMES:
        posed.known = _parameters(session, found.result)
        others = [name for name in posed.known if name not in found.result]
        posed.mistakes += [Mistake(name, why_no_member(session, question.answer, name)) for name in others]
    elif kind == YES_NO and not posed.mistakes:
        said = evidence(session, question.answer, bool(found.result))
        posed.mistakes += [Mistake(not found.result, said)] if said else []
    return posed


def _choice(session: TapeSession, question: LessonQuestion, text: str) -> Posed:
    options = tuple(filled(session, option) for option, _ in question.options)
    right = [at for at, (_, condition) in enumerate(question.options, 1) if holds(session, condition)]
    if len(right) != 1:
        numbers = " and ".join(map(str, right)) or "none"
        raise UserError(f"exactly one option has to be right; here it is {numbers}")
    said = [Mistake(int(ask(session, left).result), right) for left, right in question.wrong]
    spoken = {it.value for it in said}
    for at, (_, condition) in enumerate(question.options, 1):
        if at not in spoken and at != right[0]:
            said.append(Mistake(at, why_not(session, condition)))
    return Posed(question, text, CHOICE, right[0], said, options)


def _given(session: TapeSession, question: LessonQuestion, kind: str, answer: Any) -> list[Mistake]:
    """Return the author's wrong answers. Raises UserError if one is the right one."""
    found: list[Mistake] = []
    for expression, said in question.wrong:
        value = ask(session, expression).result
        if type(value) is not type(answer) and not all(isinstance(it, (int, float)) for it in (value, answer)):
            raise UserError(f"wrong: {expression} is no {kind}")
        if value == answer or (kind == NUMBER and near(float(value), float(answer))):
            raise UserError(f"wrong: {expression} gives the right answer, {answers.shown(answer, kind)}")
        found.append(Mistake(value, filled(session, said)))
    return found


def _others(found: list[Mistake], known: list[Mistake]) -> list[Mistake]:
    """Those mistakes for which nothing is said yet."""
    return [it for it in found if not any(near(float(it.value), float(other.value)) for other in known)]


def _of_a_number(found: Asked) -> list[Mistake]:
    """Return what can be said of a number that is no element of the tape."""
    right = found.result
    if isinstance(right, bool) or not right or type(right) is int or not math.isfinite(right):
        return []
    return [
        Mistake(-right, "The size is right; look at the sign."),
        Mistake(2 * right, "That is twice as much as it should be."),
        Mistake(right / 2, "That is half of it."),
        Mistake(10 * right, "That is ten times as much."),
        Mistake(right / 10, "That is a tenth of it."),
    ]


def _parameters(session: TapeSession, answer: Any) -> tuple[str, ...]:
    """Return the names of what the pass differentiates by, and those that are right."""
    pass_ = session.pass_
    known = [] if pass_ is None else [session.names.name(leaf) for leaf in pass_.wrt]
    return tuple(dict.fromkeys([*known, *sorted(answer)]))


def _is_seen(session: TapeSession, value: Value) -> bool:
    """Whether the user may have seen a value: it has been computed, and the op that makes it lies after them."""
    return value.op is not None and value.evaluated and value.op.position < session.cursor


def _explained(found: Asked) -> str:
    """How `explain` is asked for an element: by the op, which has made it or will."""
    op = found.value.op if found.value is not None else None
    if found.value is None or op is None:
        return ""
    slot = f".{found.value.slot}" if len(op.outputs) > 1 else ""
    return f"explain {op.label}{slot}" + (f" at {list(found.index)}" if found.index else "")
