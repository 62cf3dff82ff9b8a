"""Before: calling what MLX's transforms returned before recording began.

The activations that mlx.nn compiled at import, a training step that was compiled or differentiated in an earlier cell
of a notebook. MLX tells Python's garbage collector what such an object holds: the function, and for `mx.compile` its
captured inputs and outputs, for `mx.vmap` the axes (what they give to `mlx_func` in mlx/python/src/transforms.cpp).
"""

from __future__ import annotations

import functools
import gc
import sys
from collections.abc import Callable
from typing import Any

import mlx.core as mx

from nnrepl.record import aside, opaque, titles, trees
from nnrepl.record.compiled import Compiled
from nnrepl.record.custom import Checkpointed
from nnrepl.record.opaque import Transform
from nnrepl.record.recorder import Recorder, ready
from nnrepl.record.strays import native
from nnrepl.record.transforms import Differentiated

_getframe = sys._getframe
_checkpoint, _compile, _value_and_grad, _vmap = mx.checkpoint, mx.compile, mx.value_and_grad, mx.vmap


def caller(original: Callable[..., Any]) -> Callable[..., Any]:
    """Return the replacement for calling what a transform returned."""

    def __call__(self: Any, *args: Any, **kwargs: Any) -> Any:
        recorder = ready()
        if recorder is None:
            aside.pass_on((args, kwargs))
            return original(self, *args, **kwargs)
        known = recorder.made_before.get(id(self))
        if known is None:
            known = recorder.made_before[id(self)] = (self, _transform(recorder, self))
        return known[1](args, kwargs, _getframe(1))

    return __call__


def _transform(recorder: Recorder, made: Any) -> Callable[..., Any]:
    """How to call an object that a transform has made."""
    *held, fun = gc.get_referents(made)[1:]
    options = [] if len(held) < 2 else held[-2:]  # up to mlx 0.32.3 what MLX itself calls comes first
    transform: Transform | None = None
    if options:
        axes = any(isinstance(leaf, int) for leaf in trees.leaves(options))
        if not axes or any(isinstance(leaf, mx.array) for leaf in trees.leaves(options)):
            transform = Compiled(_compile, fun, tuple(options), {}, made)
        else:
            transform = opaque.Mapped(_vmap, fun, tuple(options), {}, made)
    elif _is_from_nn(fun, "value_and_grad"):
        transform = Differentiated(_value_and_grad, fun, (), {}, made)
    elif _is_from_nn(fun, "checkpoint"):
        transform = Checkpointed(_checkpoint, fun, (), {}, made)
    if transform is not None:
        call = transform.call
        return functools.partial(call, recorder)
    # A gradient: with respect to what, or whether it is one at all, MLX does not tell. It runs it by itself.
    real = native(made)
    name = titles.title(fun)
    return lambda args, kwargs, frame: opaque.OpaqueCall(recorder, name, "transform", None, real).run(
        args, kwargs, frame
    )


def _is_from_nn(fun: Any, maker: str) -> bool:
    """Whether it is the function that `nn.value_and_grad` or `nn.utils.checkpoint` hands to MLX's own transform."""
    name = str(getattr(fun, "__qualname__", ""))
    return getattr(fun, "__module__", None) == "mlx.nn.utils" and name.startswith(f"{maker}.<locals>.")
