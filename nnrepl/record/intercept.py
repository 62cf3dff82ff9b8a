"""Intercept: replaces MLX's callables by wrappers that tell the recorder, and puts them back.

Functions are replaced on their modules; methods, operators and properties on the type `mx.array`.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import cache
from threading import get_ident
from typing import Any, NamedTuple

import mlx.core as mx

from nnrepl.record import before, catalog, compiling, custom, kernels, special, strays, transforms, wrapped
from nnrepl.record.catalog import Callee
from nnrepl.record.native import Levels, levels_of
from nnrepl.record.native_reads import CONVERSIONS, IN_PLACE, Conversion, evaluating, in_place, loading, reading
from nnrepl.record.patches import Patches, Replaced, stand
from nnrepl.record.recorder import Recorder, aside, current, installed
from nnrepl.tape import collector
from nnrepl.tape.native_run import SUFFIXES

_getframe = sys._getframe
_RANDOM_STATE: Any = mx.random.state

_OURS = os.path.dirname(os.path.dirname(__file__)) + os.sep


@contextmanager
def recording(recorder: Recorder) -> Iterator[Recorder]:
    """Record everything that happens inside. Afterwards MLX is what it was before, to the object.

    Where something is recorded already (a program that calls `nnrepl.trace` runs under nnrepl), that pauses meanwhile.

    Raises:
        RuntimeError: In another thread than the one that is recorded.
    """
    outer = current()
    with nullcontext() if outer is None else paused(outer), installed(recorder):
        recorder.compiling = compiling.compiling()
        levels = Levels(recorder, lambda patches: _install(recorder, patches), _install_calls)
        try:
            levels.begin()
            yield recorder
        finally:
            levels.undo()


@contextmanager
def paused(outer: Recorder) -> Iterator[None]:
    """While this lasts MLX is as it was before a recorder was put in. What is drawn meanwhile is noticed."""
    levels = levels_of(outer)
    if levels is None or outer.thread != get_ident():
        raise RuntimeError("nnrepl records another thread already; there can be one recording at a time")
    state = _RANDOM_STATE[0]
    with outer.muted(), levels.out(), aside(outer):
        yield
    if _RANDOM_STATE[0] is not state:
        outer.seeded(("recorded", outer.draws))


def _install_calls(levels: Levels, patches: Patches) -> None:
    """Put in what is in while a program runs natively: transforms, changes in place, updates of optimizers."""
    recorder = levels.recorder
    for callee in catalog.CALLEES:
        if callee.treatment == "transform" and _is_own(callee):
            wrapper = transforms.wrapper(recorder, callee)
            if wrapper is not None:
                patches.set(callee.holder, callee.attribute, staticmethod(wrapper))
    for name in IN_PLACE:
        patches.set(mx.array, name, in_place(levels, vars(mx.array)[name]))
    for callee in catalog.CALLEES:
        if callee.treatment == "sync" and callee.attribute in vars(callee.holder) and _is_own(callee):
            method = callee.holder is mx.array
            if levels.resting:
                wrapper = evaluating(levels, callee.original)
            # `mx.eval` tells the program nothing that a later run would have to tell it again, and is left alone; but a
            # run that is led forward has to keep the program from it (`nnrepl.replay.uncomputed`).
            elif method or callee.key in SUFFIXES or recorder.intake.follows:
                there = vars(callee.holder)[callee.attribute]  # where files are written, that is noted
                original = getattr(there, "__func__", there) if callee.key in SUFFIXES else callee.original
                wrapper = reading(levels, replace(callee, original=original))
            else:
                continue
            patches.set(callee.holder, callee.attribute, wrapper if method else staticmethod(wrapper))
    if not levels.resting:
        _install_reads(levels, patches)
    elif not recorder.started:
        from nnrepl.record.first_forward import awaited  # needed for few programs

        awaited(levels, patches)
    _install_updates(levels, patches)


def _install_reads(levels: Levels, patches: Patches) -> None:
    """Put in what notices that NumPy takes tensors, and that some come from a file."""
    _install_conversions(levels, patches)
    load = next(callee for callee in catalog.CALLEES if callee.key == "mx.load")
    if _is_own(load):
        patches.set(load.holder, load.attribute, staticmethod(loading(levels, load)))


def _install_conversions(levels: Levels, patches: Patches) -> None:
    numpy = sys.modules.get("numpy")
    for name in CONVERSIONS if numpy is not None else ():
        patches.set(numpy, name, Conversion(levels, name, vars(numpy)[name]))


def _is_own(callee: Callee) -> bool:
    """Whether MLX's own function stands in its place, or nnrepl's which calls it (to know what files are written): a
    program may have put another there, which calls it or not."""
    there = vars(callee.holder).get(callee.attribute)
    if there is callee.original:
        return True
    code = getattr(getattr(there, "__func__", there), "__code__", None)
    return code is not None and code.co_filename.startswith(_OURS)


def _install_updates(levels: Levels, patches: Patches) -> None:
    from nnrepl.record.update_hooks import optimizers, update_hook  # needed once a program trains

    for kind, name in optimizers():
        patches.set(kind, name, update_hook(levels, vars(kind)[name]))


def _install(recorder: Recorder, patches: Patches) -> None:
    patches.undo_by(wrapped.record_for(recorder))
    wrappers = _install_made_once(patches)
    for callee in _MADE_EACH_TIME:
        wrapper = _wrapper(recorder, callee)
        if wrapper is None or callee.attribute not in vars(callee.holder) or not _is_own(callee):
            continue
        wrapper = _hung(callee, wrapper)
        if callee.holder is not mx.array:
            wrappers[id(callee.original)] = wrapper
        patches.set(callee.holder, callee.attribute, wrapper)
    patches.clear_vectorcall(mx.array)
    patches.set(mx.array, "__copy__", special.copier(recorder, mx.array.__dict__["__copy__"]))
    patches.set(mx.array, "__deepcopy__", special.copier(recorder, mx.array.__dict__["__deepcopy__"]))
    # What comes out of a pickle is made without `__init__`.
    patches.set(mx.array, "__setstate__", special.unpickler(recorder))
    patches.undo_by(strays.catch_transformed(before.caller))
    patches.set(mx.custom_function, "__call__", custom.caller(mx.custom_function.__call__))
    for name in ("vjp", "jvp", "vmap"):
        patches.set(mx.custom_function, name, custom.setter(name, getattr(mx.custom_function, name)))
    levels = levels_of(recorder)
    if levels is not None:
        _install_conversions(levels, patches)
        # The tape may have an update as one closed call: then it has to be told where each of them ends.
        if recorder.intake.opens:
            _install_updates(levels, patches)
    patches.undo_by(strays.catch(wrappers))
    patches.set(gc, "collect", collector.caught(gc.collect))
    patches.set(gc, "get_objects", collector.enumerated(gc.get_objects))


_MADE_EACH_TIME = [callee for callee in catalog.CALLEES if callee.treatment not in {*wrapped.MADE_ONCE, "skip"}]


def _install_made_once(patches: Patches) -> dict[int, Any]:
    """Put in what is the same for all recordings, and return the functions among it by the `id` of what they stand for:
    MLX's own are caught where they are called, also by what the program has put in their place. Every stop comes by
    here: it costs what a look at each name does."""
    wrappers: dict[int, Any] = {}
    for group in _standing_in():
        own = vars(group.holder)
        if group.holder is mx.array:
            patches.set_all(_replaced(group, own))
            continue
        wrappers |= group.wrappers
        if stand(own, group.originals):
            patches.set_together(own, group.originals, group.instead)
        else:
            patches.set_all(_replaced(group, own))
    return wrappers


def _replaced(group: WrappedOnce, own: Mapping[str, Any]) -> list[Replaced]:
    """Return what to put in one by one: on a type that is the only way, and in a module something may stand in the
    place of MLX's own."""
    return [
        (group.holder, own, name, there, group.instead[name])
        for name, original in group.originals.items()
        if (there := own.get(name)) is original or _is_own(group.callees[name])
    ]


class WrappedOnce(NamedTuple):
    """What is wrapped once of one module, or of the type of arrays, by name."""

    holder: Any
    callees: dict[str, Callee]
    originals: dict[str, Any]
    instead: dict[str, Any]
    wrappers: dict[int, Any]


@cache
def _standing_in() -> list[WrappedOnce]:
    """Return what is wrapped once: MLX's own, and what stands in for it; that by the `id` of MLX's own as well."""
    groups: dict[int, WrappedOnce] = {}
    for callee in catalog.CALLEES:
        if callee.treatment in wrapped.MADE_ONCE:
            group = groups.setdefault(id(callee.holder), WrappedOnce(callee.holder, {}, {}, {}, {}))
            group.callees[callee.attribute], group.originals[callee.attribute] = callee, callee.original
            group.instead[callee.attribute] = instead = _hung(callee, wrapped.wrapper(callee))
            group.wrappers[id(callee.original)] = instead
    return list(groups.values())


def _hung(callee: Callee, wrapper: Any) -> Any:
    """Return what hangs where a callee did: MLX's functions do not become methods when they are class attributes; nor
    must what stands in for them."""
    return wrapper if callee.holder is mx.array else staticmethod(wrapper)


def _wrapper(recorder: Recorder, callee: Callee) -> Any:
    match callee.treatment:
        case "augmented":
            return special.augmented(recorder, catalog.operation(callee))
        case "transform":
            return transforms.wrapper(recorder, callee)
        case "maker":
            return kernels.maker(recorder, callee)
        case "stream":
            return special.stream(recorder, callee)
        case "switch":
            return compiling.switch(recorder, callee)
        case "special":
            return special.wrapper(recorder, callee)
    return None
