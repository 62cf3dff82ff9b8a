"""Primitives: what MLX's own graph does for one op."""

from __future__ import annotations

from collections.abc import Collection
from itertools import count
from string import ascii_lowercase

from nnrepl.classes import dataclass
from nnrepl.explain import words
from nnrepl.record.anatomy import graph, stand_in
from nnrepl.record.dot import Primitive
from nnrepl.session.errors import UserError
from nnrepl.tape import Op


@dataclass(frozen=True, slots=True)
class PrimitiveCall:
    """One primitive, with what goes in and what it makes: inputs by their names, its own results as a, b, ..."""

    name: str
    takes: tuple[str, ...]
    makes: tuple[str, ...]


def primitives(op: Op) -> list[PrimitiveCall]:
    """Return the primitives of an op in the order in which MLX computes them. Nothing is evaluated: the op is called on
    stand-ins of the same shapes.

    Raises:
        UserError: If the op cannot be called again.
    """
    if op.error is not None:
        raise UserError(f"{op.label} {op.name} raised {type(op.error).__name__}; it has no graph")
    stands = {value: stand_in(value.shape, value.dtype) for value in dict.fromkeys(op.inputs)}
    names = {f"i{slot}": value for slot, value in enumerate(stands)}
    outputs = {f"o{slot}": array for slot, array in enumerate(op.compute(stands.__getitem__))}
    steps = graph(outputs, {name: stands[value] for name, value in names.items()})
    called = {name: words.name(value) for name, value in names.items()}
    called |= {f"o{slot}": words.name(value) for slot, value in enumerate(op.outputs)}
    found = []
    for step in steps:
        if isinstance(step, Primitive):
            for made in step.outputs:
                if made not in called:
                    called[made] = _letter(called.values())
            takes = tuple(called.get(name, "a constant") for name in step.inputs)
            found.append(PrimitiveCall(step.label, takes, tuple(called[name] for name in step.outputs)))
    return found


def _letter(taken: Collection[str]) -> str:
    """Return a name that nothing has: a letter, with a number where all letters are taken."""
    names = (f"{letter}{number or ''}" for number in count() for letter in ascii_lowercase)
    return next(name for name in names if name not in taken)
