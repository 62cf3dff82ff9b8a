"""Receipt: what `verify` found."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.text import Text

from nnrepl.record.verify import Receipt, TensorDifference


def receipt_view(receipt: Receipt) -> RenderableType:
    """One line for each question, and what is wrong under it."""
    lines: list[RenderableType] = [
        _line(
            not receipt.different,
            f"{receipt.ops} ops computed again from their recorded inputs: "
            + ("the same bits" if not receipt.different else f"{len(receipt.different)} differ"),
        ),
        *_differences(receipt.different),
    ]
    if receipt.calls:
        verdict = "returned what the ops inside make" if not receipt.calls_different else "returned something else"
        several = "calls" if receipt.calls > 1 else "call"
        lines.append(_line(not receipt.calls_different, f"{receipt.calls} {several} that MLX ran by itself {verdict}"))
        lines.extend(_differences(receipt.calls_different))
    if receipt.gradient_error:
        lines.append(_line(False, f"MLX's own gradients could not be taken: {receipt.gradient_error}"))
    elif receipt.gradients:
        verdict = "bit for bit MLX's own" if not receipt.gradients_different else "differ from MLX's own"
        count = len(receipt.gradients_different) or receipt.gradients
        lines.append(_line(not receipt.gradients_different, f"{count} gradients: {verdict}"))
        lines.extend(_differences(receipt.gradients_different))
    if receipt.primitives:
        verdict = "each belongs to a recorded op" if not receipt.unaccounted else "not all accounted for"
        lines.append(_line(not receipt.unaccounted, f"{receipt.primitives} primitives in MLX's lazy graph: {verdict}"))
        lines.extend(Text(f"    {problem}", style="error") for problem in receipt.unaccounted)
    if receipt.already_evaluated:
        lines.append(
            Text(f"  {receipt.already_evaluated} ops were evaluated before: MLX has dropped their graph", style="hint")
        )
    lines.append(_line(not receipt.holes, f"{len(receipt.holes) or 'no'} holes"))
    lines.extend(Text(f"    {hole.value.name}: {hole.reason}", style="error") for hole in receipt.holes)
    if receipt.unseen:
        others = "other passes of the tape were" if receipt.unseen > 1 else "other pass of the tape was"
        lines.append(Text(f"  {receipt.unseen} {others} not looked at", style="hint"))
    return Group(*lines)


def _line(good: bool, text: str) -> Text:
    mark = Text("✓ ", style="good") if good else Text("✗ ", style="error")
    return mark.append(text, style="default")


def _differences(found: tuple[TensorDifference, ...]) -> list[RenderableType]:
    return [Text(f"    {one.name}: largest difference {one.largest:.3g}", style="error") for one in found[:10]]
