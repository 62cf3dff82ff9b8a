"""The receipt: what it says where it could not be finished."""

from __future__ import annotations

import mlx.core as mx
import pytest

import nnrepl
from nnrepl.record.verify import verify
from nnrepl.view.receipt import lines_of


def test_a_receipt_that_was_broken_off_names_what_was_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """What had been found by then stays, and nothing is said of the rest."""
    monkeypatch.setattr("nnrepl.record.verify._SLICE", 1)
    trace = nnrepl.trace(lambda w, x: mx.tanh(x @ w).sum(), mx.ones((3, 2)), mx.ones((4, 3)), wrt=0)

    def stop(share: float) -> None:
        raise KeyboardInterrupt

    receipt = verify(trace.tape, *trace.tape.passes, progress=stop)
    assert receipt.unasked == ("ops computed again", "calls that MLX ran by itself", "gradients")
    said = [str(line.said) for line in lines_of(receipt)]
    assert any(line.startswith("stopped: not asked") and "gradients" in line for line in said)
    assert any(line.startswith("1 op computed again") for line in said)
    assert not any("bit for bit" in line for line in said)
    whole = verify(trace.tape, *trace.tape.passes)
    assert not whole.unasked
    assert any("bit for bit MLX's own" in str(line.said) for line in lines_of(whole))
