"""First calls: what a compiled function did when it was recorded for the first time, and what it is natively."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx

from nnrepl.classes import dataclass
from nnrepl.record import trees
from nnrepl.record.closing import Call
from nnrepl.record.numbering import called_from
from nnrepl.tape import GRADIENT_PASS, UPDATE_PASS, Activation, Op, Value


@dataclass(frozen=True)
class FirstCall:
    """What a compiled function did the first time.

    Attributes:
        ops: The ops that it recorded.
        inputs: The values that went in: its arguments, then the captured `inputs`.
        result: What it returned, as a tree of Values.
        outputs: What the captured `outputs` held afterwards.
        scope: From which call it was called.
        state: The random state before it, and how many draws there had been.
        differentiated: Whether that was in a function that was differentiated.
        contained: Whether anything was noted in it of what containers hold.
        world: What puts back what it found, where a later call may need that.
    """

    ops: list[Op]
    inputs: list[Value]
    result: Any
    outputs: list[Value]
    scope: Activation | None
    state: tuple[mx.array, Any]
    differentiated: bool = False
    contained: bool = True
    world: Callable[[], None] | None = None

    @property
    def takes_gradients(self) -> bool:
        """Whether a gradient call is among its ops."""
        return any(op.pass_.kind == GRADIENT_PASS for op in self.ops)


@dataclass(frozen=True)
class Twin:
    """What a compiled function is natively.

    Attributes:
        calls: The gradient calls and updates in it, in order.
        output: Which of the arrays that it returns is the loss; -1 for none.
    """

    calls: tuple[Call, ...]
    output: int

    @classmethod
    def of(cls, trace: FirstCall) -> Twin:
        """Return what a first run shows."""
        # What happens inside of a nested call is no call of its own: MLX runs that call as one op.
        outer = dict.fromkeys([op.pass_ for op in trace.ops if op.pass_.within is None])
        # By number: of a pass at whose end something was changed the ops before that have another object.
        seen = {pass_.number: pass_ for pass_ in outer if pass_.kind in (GRADIENT_PASS, UPDATE_PASS)}.values()
        steps = {pass_.step.number: pass_.step for pass_ in seen}.values()
        updates = {pass_.number for step in steps for pass_ in step.updates}  # sums of gradients are none
        passes = [pass_ for pass_ in seen if pass_.kind == GRADIENT_PASS or pass_.number in updates]
        losses = [pass_.loss.canonical for pass_ in passes if pass_.kind == GRADIENT_PASS and pass_.loss is not None]
        returned: list[Value] = []
        map_values(trace.result, returned.append)  # type: ignore[arg-type]  # what is built of it is not looked at
        found = [at for at, value in enumerate(returned) if value.canonical in losses]
        places = [(pass_, *called_from(pass_)) for pass_ in passes]
        calls = [Call(pass_.kind, pass_.title, pass_.code, scope, lasti, trace.scope) for pass_, scope, lasti in places]
        return cls(tuple(calls), found[0] if found else -1)

    def loss(self, result: Any) -> Any:
        """Return the loss in what a call returns."""
        if type(result) is mx.array and not self.output:
            return result
        found = trees.arrays(result)
        return found[self.output] if 0 <= self.output < len(found) else None


def map_values(tree: Any, give: Callable[[Value], mx.array]) -> Any:
    """Return a tree with what `give` returns in the place of each value."""
    if isinstance(tree, Value):
        return give(tree)
    if isinstance(tree, list):
        return [map_values(item, give) for item in tree]
    if isinstance(tree, tuple):
        items = [map_values(item, give) for item in tree]
        return type(tree)(*items) if hasattr(tree, "_fields") else tuple(items)
    if isinstance(tree, dict):
        return {key: map_values(item, give) for key, item in tree.items()}
    return tree
