"""The pane of the losses: a curve from the second loss on, where there is room; else one line."""

from __future__ import annotations

from nnrepl.view.plot import Plot
from nnrepl.view.training import Training


def curves(losses: list[tuple[int, float]], height: int) -> list[bool]:
    return [isinstance(part.shown, Plot) for part in Training(losses, None, 0).parts(0, 40, height, 0)]


def test_a_curve_takes_two_losses_and_room() -> None:
    assert True not in curves([], 30)
    assert True not in curves([(1, 2.0)], 30)
    assert True in curves([(1, 2.0), (2, 1.0)], 30)
    assert True not in curves([(1, 2.0), (2, 1.0)], 3)
