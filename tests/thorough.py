"""Thorough: how much of what tests draw at random is tried. `NNREPL_THOROUGH=1 pytest` tries all of it, by hand and
before a release; without it a part, so that the whole suite stays under five minutes."""

from __future__ import annotations

import os

THOROUGH = bool(os.environ.get("NNREPL_THOROUGH"))


def share(whole: int, part: int) -> int:
    """Return how many of `whole` are tried."""
    return whole if THOROUGH else part
