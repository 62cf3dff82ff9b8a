"""The receipt: what it says where it could not be finished."""

from __future__ import annotations

import itertools
from typing import Any

import mlx.core as mx
import pytest

import nnrepl
from nnrepl.record.verify import Receipt, TensorDifference, verify
from nnrepl.tape import Op
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


APART = (TensorDifference("h", 0.25), TensorDifference("k", 0.0))
UNSTEADY = TensorDifference("g", 0.125, unsteady=True)
_ITSELF = "which MLX itself computes otherwise from one time to the next (largest difference 0.125)"
_APART = ("h: largest difference 0.25", "k: other bits of the same numbers")


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ({}, []),
        ({"ops": 1}, [(True, "1 op computed again from its recorded inputs: the same bits", ())]),
        ({"ops": 2}, [(True, "2 ops computed again from their recorded inputs: the same bits", ())]),
        ({"ops": 5, "different": APART}, [
            (False, "5 ops computed again from their recorded inputs: 2 results differ", _APART)]),
        ({"ops": 5, "different": (UNSTEADY,)}, [
            (True, f"5 ops computed again from their recorded inputs: the same bits but for g, {_ITSELF}", ())]),
        ({"ops": 5, "different": (UNSTEADY, *APART)}, [
            (False, "5 ops computed again from their recorded inputs: 2 results differ", _APART)]),
        ({"gradients": 3, "gradients_different": (UNSTEADY,)}, [
            (True, f"3 gradients: bit for bit MLX's own but for g, {_ITSELF}", ())]),
        ({"uncompared": 1}, [(None, "1 op kept no result that could be compared", ())]),
        ({"calls": 1}, [(True, "1 call that MLX ran by itself returned what the ops inside make", ())]),
        ({"calls": 2, "calls_different": APART[:1]}, [
            (False, "2 calls that MLX ran by itself returned something else", _APART[:1])]),
        ({"gradients": 1}, [(True, "1 gradient: bit for bit MLX's own", ())]),
        ({"gradients": 3, "gradients_different": APART[1:]}, [
            (False, "1 of 3 gradients differs from MLX's own", _APART[1:])]),
        ({"gradients": 3, "gradients_different": APART, "gradient_error": "ValueError"}, [
            (False, "MLX's own gradients could not be taken: ValueError", ())]),
        ({"primitives": 1}, [(True, "1 primitive in MLX's lazy graph: each belongs to a recorded op", ())]),
        ({"primitives": 4, "unaccounted": ("Sin",)}, [
            (False, "4 primitives in MLX's lazy graph: not all accounted for", ("Sin",))]),
        ({"already_evaluated": 1}, [(None, "1 op was evaluated before: MLX has dropped their graph", ())]),
        ({"already_evaluated": 2}, [(None, "2 ops were evaluated before: MLX has dropped their graph", ())]),
        ({"unseen": 1}, [(None, "1 other pass of the tape was not looked at", ())]),
        ({"unseen": 2}, [(None, "2 other passes of the tape were not looked at", ())]),
        ({"unasked": ("gradients",)}, [(False, "stopped: not asked, or not to the end: gradients", ())]),
    ],
)  # fmt: skip
def test_a_receipt_says_what_was_found_of_each_question_that_there_was(found: dict[str, Any], said: list[Any]) -> None:
    """Of what nothing was counted, nothing is said: neither that it is the same, nor that it differs."""
    nothing: dict[str, Any] = {
        "ops": 0, "uncompared": 0, "different": (), "calls": 0, "calls_different": (), "gradients": 0,
        "gradients_different": (), "gradient_error": "", "primitives": 0, "unaccounted": (), "already_evaluated": 0,
        "holes": (),
    }  # fmt: skip
    receipt = Receipt(**nothing | found)
    lines = [(line.good, str(line.said), line.wrong) for line in lines_of(receipt)]
    assert [line for line in lines if line[1] != "no holes"] == said
    assert receipt.complete == all(line[0] is not False for line in lines)


@pytest.mark.parametrize(("off", "steady"), [(1.0, True), (0.0, False), (1.0, False)])
def test_what_mlx_itself_does_not_repeat_is_not_wrong(
    off: float, steady: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As ops that add with atomics on a GPU. What it repeats, and the tape has otherwise, is wrong; so is what the tape
    has much further off than MLX wanders."""
    trace = nnrepl.trace(lambda w: mx.sin(w).sum(), mx.ones(2), wrt=0)
    compute, noise = Op.compute, itertools.count(1)

    def computed(op: Op, *find: Any) -> list[mx.array]:
        found = compute(op, *find)
        return [found[0] + off + (0 if steady else 1e-4 / next(noise))] if op.name == "sin" else found

    monkeypatch.setattr(Op, "compute", computed)
    receipt = trace.verify()
    is_wrong = off > 0
    assert [one.unsteady for one in receipt.different] == [not is_wrong]
    assert receipt.complete is not is_wrong
