"""Changes: what a displayed expression was at the stop before."""

from __future__ import annotations

from typing import Any

import mlx.core as mx

_copy = mx.array.__copy__


class ShownBefore:
    """Remembers what was shown of each displayed expression.

    Attributes:
        before: What the expression last asked for was before, if that is a tensor that has changed.
    """

    def __init__(self) -> None:
        self.before: mx.array | None = None
        self._shown: dict[tuple[int, str], Any] = {}

    def note(self, number: int, text: str, result: Any) -> str:
        """Return "changed" if the result is not what it was; remember it."""
        from nnrepl.view.summary import changed

        key = (number, text)
        known, before = key in self._shown, self._shown.get(key)
        # The program may change its own object in place; a copy shares the numbers and stays as it is.
        self._shown[key] = _copy(result) if isinstance(result, mx.array) else result
        self.before = None
        if not known:
            return ""
        if isinstance(result, mx.array) and isinstance(before, mx.array):
            if not changed(result, before):
                return ""
            self.before = before
            return "changed"
        return "" if _same(result, before) else "changed"


def _same(one: Any, other: Any) -> bool:
    """Whether two things that are no tensors are equal; what cannot be compared has changed."""
    if one is other:
        return True
    try:
        return type(one) is type(other) and bool(one == other)
    except Exception:  # a user's own __eq__ may raise anything, NumPy's gives no single answer
        return False
