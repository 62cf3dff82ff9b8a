"""The pane of the losses: a curve from the second loss on, where there is room; else one line."""

from __future__ import annotations

import mlx.core as mx
import pytest

import nnrepl
from nnrepl.seen import step_losses
from nnrepl.view.plot import Plot
from nnrepl.view.training import Training
from tests.support import OpenSession


def curves(losses: list[tuple[int, float]], height: int) -> list[bool]:
    return [isinstance(part.shown, Plot) for part in Training(losses, None, 0).parts(0, 40, height, 0)]


def test_a_curve_takes_two_losses_and_room() -> None:
    assert True not in curves([], 30)
    assert True not in curves([(1, 2.0)], 30)
    assert True in curves([(1, 2.0), (2, 1.0)], 30)
    assert True not in curves([(1, 2.0), (2, 1.0)], 3)


def test_losses_are_those_of_the_last_steps_before_the_cursor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_losses, "STEPS", 3)
    w, plain = mx.array([1.0, -2.0]), []
    with nnrepl.recording() as recorded:
        for turn in range(6):
            loss, slope = mx.value_and_grad(lambda w: mx.square(w).sum())(w)
            w = w - 0.1 * slope
            plain.append(loss.item() if turn != 2 else None)  # what nobody has looked at is not known
    session = OpenSession(recorded)
    losses = step_losses.Losses(session)
    for step in (6, 1, 3, 5, 2):
        session.run(f"goto step {step} update")
        shown = range(max(step - 3, 0) + 1, step + 1)
        assert losses.so_far() == [(at, plain[at - 1]) for at in shown if plain[at - 1] is not None]
        session.run(f"goto step {step}")
        assert all(at < step for at, _ in losses.so_far())
