"""Kernels: `mx.fast.metal_kernel` and `mx.import_function` return functions whose calls are ops."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any

from nnrepl.record.aside import pass_on
from nnrepl.record.catalog import Callee
from nnrepl.record.opaque import OpaqueCall
from nnrepl.record.recorder import Recorder, ready

_getframe = sys._getframe


def maker(recorder: Recorder, callee: Callee) -> Callable[..., Any]:
    """`mx.fast.metal_kernel`, `mx.import_function`: the calls of what they return are ops."""
    original = callee.original

    @functools.wraps(original, assigned=("__name__", "__doc__", "__module__"), updated=())
    def make(*args: Any, **kwargs: Any) -> Any:
        made = original(*args, **kwargs)
        if isinstance(made, tuple):
            return (_kernel(made[0], callee.attribute), *made[1:])
        return _kernel(made, callee.attribute)

    return make


def _kernel(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    def kernel(*args: Any, **kwargs: Any) -> Any:
        recorder = ready()
        if recorder is None:
            pass_on((args, kwargs))
            return function(*args, **kwargs)
        return OpaqueCall(recorder, name, name, None, function).run(args, kwargs, _getframe(1))

    return kernel
