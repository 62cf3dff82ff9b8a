"""Checked: what the check of a gradient found, and what can be said of it: each sentence is held against the elements
of which it speaks."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import field

import mlx.core as mx

from nnrepl.classes import dataclass
from nnrepl.explain import words
from nnrepl.explain.differences import CentralDifference
from nnrepl.explain.elements import Index
from nnrepl.ops import Trait, has
from nnrepl.tape import Op, Value
from nnrepl.tape.claims import Claim, Possibility, Said, say, stated


@dataclass(frozen=True, slots=True)
class Element:
    """One element of a gradient: what was computed, and what a finite difference gives.

    Attributes:
        index: Which.
        gradient: Its number.
        slope: The finite difference.
        limit: By how much both may differ by rounding.
    """

    index: Index
    gradient: float
    slope: CentralDifference
    limit: float = 0.0

    @property
    def difference(self) -> float:
        """The finite difference."""
        return self.slope.value

    @property
    def error(self) -> float:
        """How far they are apart."""
        return abs(self.gradient - self.slope.value)

    @property
    def is_finite(self) -> bool:
        """Whether both are numbers."""
        return math.isfinite(self.slope.value) and math.isfinite(self.gradient)

    @property
    def agrees(self) -> bool:
        """Whether they differ by no more than both can be wrong by."""
        return self.error <= self.limit + 3 * self.slope.doubt + self.slope.jump

    @property
    def is_on_kink(self) -> bool:
        """Whether the slope jumps there, and the gradient takes a number between those to either side."""
        low, high = sorted((self.slope.left, self.slope.right))
        return self.slope.jump > 20 * self.limit and low - self.limit <= self.gradient <= high + self.limit


@dataclass(frozen=True, slots=True)
class Near:
    """An element next to kinks, with its difference where each choice is held; None where the difference shrinks with
    the step."""

    element: Element
    held: CentralDifference | None

    @property
    def is_near(self) -> bool:
        """Whether the difference is gone where each choice is held, as far as that could be tried."""
        if self.held is None:
            return True
        off = abs(self.element.gradient - self.held.value)
        return off <= self.element.limit + 3 * self.held.doubt + self.held.jump


@dataclass(frozen=True, slots=True)
class Rounded:
    """An element that is off, with what the same rules give in float64."""

    element: Element
    exact: float

    @property
    def is_rounding(self) -> bool:
        """Whether what the rules give in float64 is the difference, and not the gradient."""
        return abs(self.exact - self.element.difference) <= abs(self.exact - self.element.gradient) / 8


@dataclass(slots=True)
class Checked:
    """What the check of one gradient found.

    Attributes:
        name: What the gradient is called.
        of: What it is the gradient of.
        elements: The elements that were checked one by one.
        kinks: Those at which the slope jumps.
        near: Those next to which kinks lie: the difference shrinks with the step, or is gone where each choice is held.
        undefined: Those next to which the function itself is not finite.
        wrong: Those that differ by more than rounding and noise explain.
        rounded: Those that differ by rounding only, with what the same rules give in float64.
        rough: Those whose difference is too unsteady to say more.
        whole: Whether all elements together were checked along a random direction, and agree.
        dtype: In which the differences were taken.
        fixed: Ops whose results were held fixed, because no gradient passes them.
        custom: Ops on the way that have a vjp of the program's own.
    """

    name: str
    of: Value
    elements: list[Element] = field(default_factory=list)
    kinks: list[Element] = field(default_factory=list)
    undefined: list[Element] = field(default_factory=list)
    near: list[Near] = field(default_factory=list)
    wrong: list[Element] = field(default_factory=list)
    rounded: list[Rounded] = field(default_factory=list)
    rough: list[Element] = field(default_factory=list)
    whole: bool = False
    dtype: mx.Dtype = mx.float64
    fixed: list[Op] = field(default_factory=list)
    custom: list[Op] = field(default_factory=list)

    @property
    def aside(self) -> list[Element]:
        """The elements that do not simply agree."""
        moved = [*(one.element for one in self.near), *(one.element for one in self.rounded)]
        return [*self.kinks, *self.undefined, *self.wrong, *self.rough, *moved]

    @property
    def agreeing(self) -> list[Element]:
        """Those that do."""
        aside = {element.index for element in self.aside}
        return [element for element in self.elements if element.index not in aside]

    @property
    def compared(self) -> list[Element]:
        """Those of which there are numbers to compare."""
        return [element for element in self.elements if element not in self.undefined]

    @property
    def worst(self) -> Element | None:
        """The element that is furthest off: of the wrong ones, else of those that agree."""
        return max(self.wrong or self.agreeing, key=lambda element: element.error, default=None)


@dataclass(slots=True)
class CheckReport:
    """The gradients that were checked, and what that took.

    Attributes:
        ops: How many ops were evaluated for it.
        left: How many gradients were left when it was stopped.
        seconds: How long it took.
    """

    checked: list[Checked] = field(default_factory=list)
    ops: int = 0
    left: int = 0
    seconds: float = 0.0


# -- what is said of it --------------------------------------------------------------------------------------------


def verdict(one: Checked) -> Said:
    """Return whether a gradient agrees with its differences."""
    return stated(*_verdicts(one))


def _verdicts(one: Checked) -> Iterator[Claim[str]]:
    kind, size, total = f"finite differences in {words.dtype(one.dtype)}", one.of.size, len(one.elements)
    is_real = mx.issubdtype(one.of.dtype, mx.floating)
    yield Claim("check: empty", lambda: not size, lambda: (
        f"{one.name}: nothing to check: {words.name(one.of)} is empty"))  # fmt: skip
    yield Claim("check: complex", lambda: not is_real, lambda: (
        f"{one.name}: not checked: differences are taken along real numbers, and {words.name(one.of)} is complex"
    ))  # fmt: skip
    yield Claim("check: nothing to compare", lambda: not any(element.is_finite for element in one.elements), lambda: (
        f"{one.name}: nothing to compare: the function or the gradient is not finite"))  # fmt: skip
    wrong, agreeing = len(one.wrong), one.agreeing
    yield Claim("check: differs", lambda: wrong > 0 and not any(element.agrees for element in one.wrong), lambda: (
        f"{one.name}: {_share(total, size)} checked, {wrong} differ{'s' if wrong == 1 else ''} from {kind}"
    ))  # fmt: skip

    def agree() -> bool:
        return bool(agreeing) and all(element.is_finite and element.agrees for element in agreeing)

    yield Claim("check: all agree", lambda: agree() and one.whole and not one.aside, lambda: (
        f"{one.name}: {_share(total, size)} one by one, and all {size} together along a random direction, agree with "
        f"{kind}"))  # fmt: skip
    some = f"{len(agreeing)} of {_elements(total)} checked"
    share = _share(total, size) if len(agreeing) == total else some
    yield Claim("check: agree", agree, lambda: (
        f"{one.name}: {share} agree{'s' if len(agreeing) == 1 else ''} with {kind}"))  # fmt: skip
    yield Claim("check: none agrees", lambda: not agreeing, lambda: (
        f"{one.name}: of {_elements(total)} checked none could be said to agree, or to differ"))  # fmt: skip


def _share(count: int, size: int) -> str:
    if size == 1:
        return "its element"
    return f"all {count} elements" if count == size else f"{count} of {size} elements"


def _elements(count: int) -> str:
    return f"{count} elements" if count > 1 else "1 element"


def details(one: Checked) -> list[Said]:
    """Return what is to be said of elements: the worst, kinks, what could not be compared."""
    worst, near, rounded = one.worst, one.near, max(one.rounded, key=lambda pair: pair.element.error, default=None)
    unsteady = max((max(element.slope.doubt, element.slope.jump, element.error) for element in one.rough), default=0.0)
    claims = [] if worst is None else [_worst(one, worst)]
    claims += [_kink(one, kink) for kink in one.kinks[:3]]
    claims += [
        Claim("check: more kinks", lambda: len(one.kinks) > 3, lambda: f"and {len(one.kinks) - 3} more kinks"),
        Claim("check: near kinks", lambda: bool(near) and all(element.is_near for element in near), lambda: (
            f"next to {_elements(len(near))} there are kinks: the difference shrinks with the step, or is gone where "
            "each ReLU, max and |a| keeps its choice: it is no fault of the gradient")),
        Claim("check: not finite", lambda: bool(one.undefined) and not any(
            element.is_finite for element in one.undefined) and bool(one.compared), lambda: (
            f"next to {_elements(len(one.undefined))} the function or the gradient is not finite: nothing to compare")),
    ]  # fmt: skip
    if rounded is not None:
        claims.append(_rounding(one, rounded))
    claims.append(Possibility("check: unsteady", lambda: unsteady > 0, lambda: (
        f"of {_elements(len(one.rough))} little can be said: the differences there are only good to "
        f"±{words.number(unsteady)}")))  # fmt: skip
    return say(*claims)


def _worst(one: Checked, worst: Element) -> Claim[str]:
    """Claim which element is furthest off."""
    among = one.wrong or one.agreeing
    largest = max(other.error for other in among)
    return Claim("check: worst", lambda: worst in among and worst.error == largest, lambda: (
        f"the worst is {_told(one, worst)}: difference {words.number(worst.error)}"))  # fmt: skip


def _kink(one: Checked, kink: Element) -> Claim[str]:
    """Claim that the slope jumps at an element, which is no mistake."""
    where = words.element(words.name(one.of), kink.index)
    return Claim("check: kink", lambda: kink.is_on_kink, lambda: (
        f"{where} lies on a kink, or next to one: the slope is {words.number(kink.slope.left)} to its left and "
        f"{words.number(kink.slope.right)} to its right; the gradient takes {words.number(kink.gradient)}, which lies "
        "between them"))  # fmt: skip


def _rounding(one: Checked, worst: Rounded) -> Claim[str]:
    """Claim that some elements are off by rounding: in float64 the same rules give the difference."""
    count = f"{len(one.rounded)} elements are" if len(one.rounded) > 1 else "1 element is"
    return Claim("check: rounding", lambda: all(element.is_rounding for element in one.rounded), lambda: (
        f"{count} off by rounding only: in float64 the same rules give {words.number(worst.exact)} where "
        f"{_told(one, worst.element)}"))  # fmt: skip


def _told(one: Checked, element: Element) -> str:
    return (
        f"{words.element(one.name, element.index)} = {words.number(element.gradient)}, against "
        f"{words.number(element.difference)}"
    )


def beside(report: CheckReport) -> list[Said]:
    """Return what holds for several gradients: what was held fixed, whose vjp lies on the way, what was not reached."""
    fixed = list(dict.fromkeys(op for one in report.checked for op in one.fixed))
    custom = list(dict.fromkeys(op for one in report.checked if one.wrong for op in one.custom))
    named = ", ".join(f"{op.label}" for op in fixed[:4]) + (", …" if len(fixed) > 4 else "")
    own = ", ".join(f"{op.label} {op.name}" for op in custom[:4])
    left = report.left
    return say(
        Claim("check: held fixed", lambda: bool(fixed) and all(has(op.name, Trait.STOPS) for op in fixed), lambda: (
            f"Held fixed, because no gradient passes it: stop_gradient ({named}).")),
        Claim("check: own vjp", lambda: bool(custom) and all(op.operation.kind == "custom" for op in custom), lambda: (
            f"On the way of what differs lies a vjp of the program's own: {own}. check {custom[0].label} checks it by "
            "itself.")),
        Claim("check: stopped", lambda: left > 0, lambda: (
            f"Stopped: {words.counted(left, 'gradient')} {'were' if left > 1 else 'was'} not checked.")),
    )  # fmt: skip
