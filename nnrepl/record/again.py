"""Again: what happens inside of a call that MLX runs by itself, where a compiled function is repeated.

None of the program's lines runs then, so what happens inside is what happened in the call that was recorded, on the
values of now. Nothing of it is computed.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import mlx.core as mx

from nnrepl.record.opaque import set_random_state
from nnrepl.tape import DrawnKey, Gradient, Inside, Leaf, Op, Pass, Tangent, Value

if TYPE_CHECKING:
    from nnrepl.record.repeat import Repetition

_RANDOM_STATE: Any = mx.random.state


class InsideAgain:
    """Repeats what happened inside of one call.

    Args:
        repetition: The repetition of the compiled function.
        op: The op of the call, in the earlier run.
    """

    def __init__(self, repetition: Repetition, op: Op) -> None:
        self._repetition = repetition
        self._recorder = repetition.recorder
        self._notes = repetition.recorder.tape.notes
        self._part = self._notes.calls[op]
        self._parts: dict[Pass, Inside] = {}

    def run(self, within: Pass, draws: bool) -> Inside:
        """Put its ops on the tape again.

        Args:
            within: The pass around it.
            draws: Whether random numbers are drawn anew.
        """
        recorder, state, count = self._recorder, _RANDOM_STATE[0], self._recorder.draws
        found = self._begin(self._part, within)
        for op in self._part.ops:
            self._op(op, draws)
        for old, new in self._parts.items():
            assert isinstance(old, Inside)
            self._end(old, new)
        if _RANDOM_STATE[0] is not state:  # the call itself draws them again
            set_random_state(state)
            recorder.draws = count
        return found

    def _begin(self, old: Inside, within: Pass) -> Inside:
        image, tape = self._repetition.image, self._recorder.tape
        shift = len(tape) - old.start
        new = self._parts[old] = replace(
            old, tape=tape, number=within.number, within=within, start=old.start + shift, end=old.end + shift,
            backward=old.backward + shift, scope=self._repetition.scope(old.scope), axes={}, grads={},
        )  # fmt: skip
        leaves = []
        for leaf in old.leaves:
            assert leaf.origin is not None
            origin = image(leaf.origin)
            twin = Leaf(tape, None, leaf.kind, leaf.label, origin)
            self._notes.sketches[twin] = (origin.shape, origin.dtype)
            self._repetition.put(leaf, twin)
            leaves.append(twin)
        new.leaves = tuple(leaves)
        self._notes.entered.update(dict.fromkeys(leaves, new))
        return new

    def _op(self, old: Op, draws: bool) -> None:
        repetition, tape = self._repetition, self._recorder.tape
        part = self._parts.get(old.part)
        if part is None:
            assert isinstance(old.part, Inside)
            assert old.part.within is not None
            part = self._begin(old.part, self._parts[old.part.within])
        new = repetition.again(old)
        if draws and any(isinstance(one, DrawnKey) for one in (*new.args, *new.kwargs.values())):
            repetition.draw_anew(new)
        new.part = part
        new.outputs = tuple([self._value(new, value) for value in old.outputs])
        repetition.made[old] = new
        repetition.variables(old.position)
        new.position = len(tape.ops)
        tape.ops.append(new)
        if old in self._notes.calls:
            self._notes.calls[new] = self._parts[self._notes.calls[old]]

    def _value(self, op: Op, old: Value) -> Value:
        """What stands for a value, not computed: it has the same shape."""
        image = self._repetition.image
        if old.gradient_of is not None:
            new: Value = Gradient(op, old.slot, None, image(old.gradient_of))
        elif old.tangent_of is not None:
            new = Tangent(op, old.slot, None, image(old.tangent_of))
        else:
            new = Value(op, old.slot, None)
        self._notes.sketches[new] = (old.shape, old.dtype)
        self._repetition.put(old, new)
        return new

    def _end(self, old: Inside, new: Inside) -> None:
        image, images = self._repetition.image, self._repetition.images
        new.loss = None if old.loss is None else image(old.loss)
        new.wrt, new.given = images(old.wrt), images(old.given)
        new.roots = tuple([(image(root), image(start)) for root, start in old.roots])
        new.grads.update((image(value), list(images(grads))) for value, grads in old.grads.items())
        new.axes.update((image(value), axis) for value, axis in old.axes.items())
        new.results = tuple([(image(value), slot) for value, slot in old.results])
        for op in new.ops:
            levels = self._notes.mapped.get(op, ())
            if old in levels:
                self._notes.mapped[op] = tuple([new if level is old else level for level in levels])
