"""What a native run makes does not come to lie in the holes that a recording has left."""

from __future__ import annotations

import sys

import pytest

from nnrepl.record import heap


@pytest.mark.skipif(not sys.platform.startswith("linux") or heap._library() is None, reason="not the GNU C library")
def test_holes_are_filled_and_left_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heap, "_MOST", 64 << 20)  # whatever other tests have left
    kept = [bytes(700) for _ in range(4000)]  # too large for Python's own pools
    holes = {id(one) for one in kept[1::2]}
    del kept[1::2]
    heap.fill()
    try:
        assert len(heap._filled) > 1000
        fresh = [bytes(700) for _ in range(500)]
        assert len(holes & {id(one) for one in fresh}) < 20
        del fresh
        heap.fill()  # which leaves those from before
    finally:
        heap.release()
    assert not heap._filled
    assert len(holes & {id(one) for one in [bytes(700) for _ in range(4000)]}) > 500


def test_a_c_library_that_does_not_tell_leaves_the_heap_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heap, "_library", lambda: None)
    heap.fill()
    assert not heap._filled
    heap.release()
