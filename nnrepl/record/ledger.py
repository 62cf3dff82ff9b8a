"""Ledger: what a recorder knows of the program's arrays, as those see it to whom it hands its work."""

from __future__ import annotations

import weakref
from contextlib import AbstractContextManager
from typing import Any, Protocol

import mlx.core as mx

from nnrepl.record.leavings import Leavings
from nnrepl.record.listener import Listener, Touching
from nnrepl.tape import Leaf, Op, Pass, Tape, Value


class Ledger(Protocol):
    """The part of `nnrepl.record.recorder.Recorder`, which describes each of these, that stands below it."""

    tape: Tape
    strict: bool
    live: dict[int, Value]
    guards: dict[int, weakref.ref[mx.array]]
    pass_: Pass | None
    differentiating: int
    native_until: int
    older: dict[int, weakref.ref[mx.array]]
    inside: Touching | None
    leavings: Leavings
    overwritten: list[tuple[Value, mx.array]]
    indexing: list[Op]
    told: set[tuple[Any, int]]
    listener: Listener | None

    def leaf(self, array: mx.array, kind: str, label: str | None, origin: Value | None = None) -> Leaf: ...
    def link(self, array: mx.array, value: Value) -> None: ...
    def content(self, value: Value) -> Value: ...
    def handle(self, value: Value) -> mx.array: ...
    def muted(self) -> AbstractContextManager[None]: ...
