"""Update hooks: what stands in for the updates of optimizers, which are calls that may be closed."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any

from nnrepl.record.closing import Call
from nnrepl.record.native import Levels, noticing
from nnrepl.record.recorder import NATIVE, RECORD, here
from nnrepl.record.stack import UPDATES
from nnrepl.tape import UPDATE_PASS

_getframe = sys._getframe


def update_hook(levels: Levels, original: Callable[..., Any]) -> Callable[..., Any]:
    """Return what stands for an optimizer's `update`, where it is a call that may be closed."""

    made: dict[type, list[Call]] = {}
    recorder = levels.recorder

    @functools.wraps(original, updated=())
    def update(self: Any, *args: Any, **kwargs: Any) -> Any:
        if levels.resting and noticing() is levels:
            levels.wake()  # no gradient call has: where the step ends is known by the ops of its update
        if here() is not recorder:
            return original(self, *args, **kwargs)
        if recorder.mode == RECORD and not recorder.differentiating:
            recorder.intake.awake(recorder)
            with levels.recorded([Call(UPDATE_PASS, type(self).__name__)], _getframe(1)):
                return original(self, *args, **kwargs)
        if recorder.mode != NATIVE or levels.inside:
            return original(self, *args, **kwargs)
        call = functools.partial(recorder.intake.updating(original), self, *args, **kwargs)
        calls = made.get(type(self))  # made once for each class: this runs at every step
        if calls is None:
            calls = made[type(self)] = [Call(UPDATE_PASS, type(self).__name__)]
        return levels.run(calls, _getframe(1), call)

    return update


def optimizers() -> list[tuple[type, str]]:
    """Return the classes of optimizers that have an `update` of their own, and what it is called."""
    base = sys.modules.get("mlx.optimizers.optimizers")
    if base is None:
        return []
    kinds = [base.Optimizer]
    for kind in kinds:
        kinds += kind.__subclasses__()
    return [(kind, name) for kind in kinds for name in UPDATES if name in vars(kind)]
