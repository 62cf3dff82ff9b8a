"""Gone: what stands for a part of an object that was made again, where that part no longer exists.

The others are there: `self.step` is known although the queue that `self` held is gone. Whoever uses what is gone is
told so; whoever only shows what holds it sees where it was.
"""

from __future__ import annotations

from typing import Any, NoReturn

from nnrepl.session.errors import UserError


class Gone:
    """A part that no longer exists.

    Args:
        why: Which it was, and that it is gone.
    """

    __slots__ = ("_why",)

    def __init__(self, why: str) -> None:
        self._why = why

    def __repr__(self) -> str:
        return "<no longer exists>"

    def _told(self, *_: Any, **__: Any) -> NoReturn:
        raise UserError(self._why)

    def __getattr__(self, name: str) -> NoReturn:
        raise AttributeError(name if name == "_why" else self._why)  # a copy is asked before it has any

    __call__ = __bool__ = __len__ = __iter__ = __next__ = __contains__ = __getitem__ = __setitem__ = _told
    __lt__ = __le__ = __gt__ = __ge__ = __int__ = __float__ = __index__ = __enter__ = _told
    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __rtruediv__ = __matmul__ = _told
