"""Heap: the holes that a recording leaves between what it keeps.

What is recorded lies among what was needed for a moment and is free again. MLX makes and drops some thousand small
objects a step (the nodes of its graphs), and a program that runs natively afterwards would lay them into those holes,
all over the heap: each step of a small recurrent network took a tenth longer than in plain Python, with the same calls
of MLX, which waited for memory. So the holes are filled, and what a native run makes lies together, as in plain Python.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from typing import Any

_MOST = 8 << 20
"""So many bytes are filled: the rest of a heap that has more holes stays as it is."""
_LARGE, _MANY = 65_536, 4_096
"""Holes of this size, so many of them, are none: what is laid into one lies together."""
_SIZES = (32_768, 16_384, 8_192, 4_096, 2_048, *range(1_032, 8, -16))
"""Of what is laid into the others, the largest first: below, of each size that the C library tells apart."""


class _Heap(ctypes.Structure):
    """What `mallinfo2` tells (malloc/malloc.h of the GNU C library)."""

    _fields_ = [(name, ctypes.c_size_t) for name in (
        "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost",
    )]  # fmt: skip


@functools.cache
def _library() -> tuple[Callable[..., Any], ...] | None:
    """Return what tells of the heap, where it ends, what takes of it and what gives back; None where the C library is
    not GNU's."""
    library = ctypes.CDLL(None)
    try:
        found = library.mallinfo2, library.sbrk, library.malloc, library.free
    except AttributeError:
        return None
    told, end, take, give = found
    told.restype, end.restype, take.restype, give.restype = _Heap, ctypes.c_void_p, ctypes.c_void_p, None
    end.argtypes, take.argtypes, give.argtypes = [ctypes.c_ssize_t], [ctypes.c_size_t], [ctypes.c_void_p]
    return found


_filled: list[int] = []
"""What the holes are filled with."""


def fill() -> None:
    """Fill the holes, until `release`."""
    release()
    library = _library()
    if library is None:
        return
    told, end, take, give = library
    top = end(0) - told().keepcost  # from here on the heap is free: what comes from there is no hole

    def lay(size: int, count: int, into: list[int]) -> None:
        for _ in range(count):
            at = take(size)
            if not at or at >= top:
                give(at)
                return
            into.append(at)

    large: list[int] = []
    lay(_LARGE, _MANY, large)
    room = _MOST
    for size in _SIZES:
        before = len(_filled)
        lay(size, room // size, _filled)
        room -= (len(_filled) - before) * size
    for at in large:
        give(at)


def release() -> None:
    """Leave the holes to what is recorded next."""
    library = _library()
    while library is not None and _filled:
        library[3](_filled.pop())
