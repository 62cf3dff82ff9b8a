"""Born: where a number that is none was born, in words, and the check of them."""

from __future__ import annotations

from nnrepl.explain import words
from nnrepl.ops import Trait, has
from nnrepl.ops.numbers import unravel
from nnrepl.session.births import INF, NAN, Birth
from nnrepl.tape import Leaf, Op

SIGN = {NAN: "NaN", INF: "∞"}


def _number(birth: Birth) -> str:
    return "−∞" if birth.kind == INF and birth.negative else SIGN[birth.kind]


def amount(nans: int, infs: int, size: int) -> str:
    """`2 NaN among 6 numbers`."""
    parts = [f"{count} {name}" for count, name in ((nans, "NaN"), (infs, "∞")) if count]
    return f"{' and '.join(parts)} among {size} number{'s' if size != 1 else ''}"


def did(op: Op) -> str:
    """`#6, exp(z) (train.py:31)`; a VJP by the op that it differentiates."""
    where = words.spot(op)
    what = f"the VJP of {words.call(op.of)}" if op.of is not None else words.call(op)
    return f"{op.label}, {what}" + (f" ({where})" if where else "")


def born(birth: Birth) -> str:
    """Where a number was born, as the end of a sentence: `#6, exp(z) (train.py:31), makes ∞ out of finite numbers`."""
    if birth.op is None or birth.op.operation.kind == "data" or has(birth.op.name, Trait.GIVEN):
        return came_in(birth)
    if birth.lost:
        return f"{birth.value.name} holds {_number(birth)}; what made it cannot be followed further: {birth.lost}"
    if birth.constant is not None:
        return f"{did(birth.op)}, has {words.number(birth.constant)} in its call"
    empty = birth.op.inputs and not any(taken.size for taken in birth.op.inputs)
    out = "infinite ones" if birth.before is not None else "no numbers" if empty else "finite numbers"
    inner = f"; inside of that call, {born(birth.within)}" if birth.within is not None else ""
    return f"{did(birth.op)}, makes {_number(birth)} out of {out}{inner}"


def came_in(birth: Birth) -> str:
    """Where a number came in that no op made: with which array, at which element, and who takes it first."""
    value = birth.value
    element = words.element(value.name, unravel(birth.at, value.shape))
    what = f"{element} came in as {_number(birth)}"
    if birth.op is not None:
        where = words.place(birth.op.source)
        what = f"{element} is {_number(birth)} in the data that {birth.op.label} {birth.op.name} takes in" + (
            f" ({where})" if where else "")  # fmt: skip
    elif isinstance(value, Leaf) and value.kind in _KINDS:
        what = f"{_KINDS[value.kind]} {what}"
    user = birth.through or next(iter(value.consumers), None)
    first = f"; {did(user)} of {user.pass_.address}, takes it" if user is not None else ""
    return what + first


_KINDS = {"parameter": "the parameter", "input": "the input", "constant": "the constant", "captured": "the captured"}


def did_of(birth: Birth) -> str:
    """Return the op of a birth, or the leaf."""
    return birth.value.name if birth.op is None else did(birth.op)
