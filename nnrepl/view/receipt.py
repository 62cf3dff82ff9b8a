"""Receipt: what `verify` found."""

from __future__ import annotations

import math
from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.text import Text

from nnrepl.classes import dataclass
from nnrepl.record.verify import Receipt, TensorDifference
from nnrepl.tape.claims import Claim, Said, say

_SHOWN = 10


@dataclass(frozen=True, slots=True)
class ReceiptLine:
    """One question and its answer.

    Attributes:
        said: The answer.
        good: Whether nothing is wrong; None for what was not looked at.
        wrong: What is wrong.
    """

    said: Said
    good: bool | None
    wrong: tuple[str, ...] = ()


def receipt_view(receipt: Receipt) -> RenderableType:
    """One line for each question, and what is wrong under it."""
    shown: list[RenderableType] = []
    for line in lines_of(receipt):
        if line.good is None:
            shown.append(Text(f"  {line.said}", style="hint"))
            continue
        mark = Text("✓ ", style="good") if line.good else Text("✗ ", style="error")
        shown.append(mark.append(line.said, style="default"))
        shown.extend(Text(f"    {problem}", style="error") for problem in line.wrong[:_SHOWN])
        if len(line.wrong) > _SHOWN:
            shown.append(Text(f"    and {len(line.wrong) - _SHOWN} more", style="error"))
    return Group(*shown)


def lines_of(receipt: Receipt) -> Iterator[ReceiptLine]:
    """Yield the answers, each with its check."""
    yield from _bits(receipt)
    yield from _calls(receipt)
    yield from _gradients(receipt)
    yield from _graph(receipt)
    yield from _line(True, Claim("verify: no holes", lambda: not receipt.holes, lambda: "no holes"))
    count = len(receipt.holes)
    yield from _line(
        False,
        Claim("verify: holes", lambda: count > 0, lambda: _many(count, "hole")),
        tuple(f"{hole.value.name}: {hole.reason}" for hole in receipt.holes),
    )
    yield from _line(False, Claim("verify: unasked", lambda: bool(receipt.unasked), lambda: (
        f"stopped: not asked, or not to the end: {', '.join(receipt.unasked)}")))  # fmt: skip
    unseen = receipt.unseen
    others = "other passes of the tape were" if unseen > 1 else "other pass of the tape was"
    said = Claim("verify: unseen", lambda: unseen > 0, lambda: f"{unseen} {others} not looked at")
    yield from _line(None, said)


def _line(good: bool | None, claim: Claim[str], wrong: tuple[str, ...] = ()) -> Iterator[ReceiptLine]:
    yield from (ReceiptLine(said, good, wrong) for said in say(claim))


def _bits(receipt: Receipt) -> Iterator[ReceiptLine]:
    again = f"{_many(receipt.ops, 'op')} computed again from {'its' if receipt.ops == 1 else 'their'} recorded inputs"
    different, unsteady = _apart_from(receipt.different)
    yield from _line(
        True,
        Claim(
            "verify: same bits", lambda: receipt.ops > 0 and not receipt.different, lambda: f"{again}: the same bits"
        ),
    )  # fmt: skip
    yield from _line(
        True,
        Claim(
            "verify: unsteady bits",
            lambda: bool(unsteady) and not different,
            lambda: f"{again}: the same bits but for {_named(unsteady)}, {_UNSTEADY} ({_largest(unsteady)})",
        ),
    )
    said = Claim("verify: other bits", lambda: bool(different), lambda: f"{again}: {_many(len(different), 'result')} "
                 f"{'differs' if len(different) == 1 else 'differ'}")  # fmt: skip
    yield from _line(False, said, _differences(different))
    left = receipt.uncompared
    yield from _line(None, Claim("verify: not compared", lambda: left > 0, lambda: (
        f"{_many(left, 'op')} kept no result that could be compared")))  # fmt: skip


def _calls(receipt: Receipt) -> Iterator[ReceiptLine]:
    calls = f"{_many(receipt.calls, 'call')} that MLX ran by itself"
    wrong = receipt.calls_different
    yield from _line(True, Claim("verify: calls", lambda: receipt.calls > 0 and not wrong, lambda: (
        f"{calls} returned what the ops inside make")))  # fmt: skip
    said = Claim("verify: other calls", lambda: bool(wrong), lambda: f"{calls} returned something else")
    yield from _line(False, said, _differences(wrong))


def _gradients(receipt: Receipt) -> Iterator[ReceiptLine]:
    failed = list(_line(False, Claim("verify: no gradients", lambda: bool(receipt.gradient_error), lambda: (
        f"MLX's own gradients could not be taken: {receipt.gradient_error}"))))  # fmt: skip
    yield from failed
    if failed:
        return
    wrong, unsteady = _apart_from(receipt.gradients_different)
    gradients = _many(receipt.gradients, "gradient")
    yield from _line(True, Claim("verify: gradients", lambda: receipt.gradients > 0 and not (wrong or unsteady), (
        lambda: f"{gradients}: bit for bit MLX's own")))  # fmt: skip
    yield from _line(
        True,
        Claim(
            "verify: unsteady gradients",
            lambda: bool(unsteady) and not wrong,
            lambda: (
                f"{gradients}: bit for bit MLX's own but for {_named(unsteady)}, {_UNSTEADY} ({_largest(unsteady)})"
            ),
        ),
    )
    differ = "differs" if len(wrong) == 1 else "differ"
    said_wrong = Claim("verify: other gradients", lambda: bool(wrong), lambda: (
        f"{len(wrong)} of {gradients} {differ} from MLX's own"))  # fmt: skip
    yield from _line(False, said_wrong, _differences(wrong))


def _graph(receipt: Receipt) -> Iterator[ReceiptLine]:
    count, wrong = receipt.primitives, receipt.unaccounted
    graph = f"{_many(count, 'primitive')} in MLX's lazy graph"
    yield from _line(True, Claim("verify: accounted", lambda: count > 0 and not wrong, lambda: (
        f"{graph}: each belongs to a recorded op")))  # fmt: skip
    said = Claim("verify: not accounted", lambda: bool(wrong), lambda: f"{graph}: not all accounted for")
    yield from _line(False, said, wrong)
    gone = receipt.already_evaluated
    were = "was" if gone == 1 else "were"
    yield from _line(None, Claim("verify: evaluated", lambda: gone > 0, lambda: (
        f"{_many(gone, 'op')} {were} evaluated before: MLX has dropped their graph")))  # fmt: skip


def _many(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


_UNSTEADY = "which MLX itself computes otherwise from one time to the next"


def _apart_from(
    found: tuple[TensorDifference, ...],
) -> tuple[tuple[TensorDifference, ...], tuple[TensorDifference, ...]]:
    """Return what is wrong, and what MLX itself does not repeat."""
    return tuple(one for one in found if not one.unsteady), tuple(one for one in found if one.unsteady)


def _named(unsteady: tuple[TensorDifference, ...]) -> str:
    more = len(unsteady) - _SHOWN
    return ", ".join(one.name for one in unsteady[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _largest(unsteady: tuple[TensorDifference, ...]) -> str:
    return f"largest difference {max(one.largest for one in unsteady):.3g}"


def _differences(found: tuple[TensorDifference, ...]) -> tuple[str, ...]:
    return tuple(f"{one.name}: {_apart(one)}" for one in found)


def _apart(one: TensorDifference) -> str:
    """How far two tensors are apart that differ in their bits; the numbers may be equal: 0 and −0, two NaNs."""
    if one.largest != one.largest:
        return "another shape"
    if one.largest == math.inf:
        return "NaN or ∞ on one side only"
    return f"largest difference {one.largest:.3g}" if one.largest else "other bits of the same numbers"
