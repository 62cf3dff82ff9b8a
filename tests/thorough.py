"""Thorough: how much is tried of what tests draw at random, and of programs in several ways. `NNREPL_THOROUGH=1 pytest`
tries all of it, each night and before a release; without it a part, so that the suite takes no longer than it must."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Any

THOROUGH = bool(os.environ.get("NNREPL_THOROUGH"))


def by_turns(things: Iterable[Any], ways: Sequence[Any]) -> list[tuple[Any, Any]]:
    """Return each thing with one of several ways, by turns, so that each of both is tried; with each where all is."""
    return [(thing, way) for at, thing in enumerate(things) for way in (ways if THOROUGH else [ways[at % len(ways)]])]


def share(whole: int, part: int) -> int:
    """Return how many of `whole` are tried."""
    return whole if THOROUGH else part
