"""Op: one op in one line, with its inputs, what it does, and what comes out."""

from __future__ import annotations

from rich.text import Text

from nnrepl.tape import BackwardOp, Leaf, Op, Value, text_of
from nnrepl.view.tensor import dtype_text, number, shape_text


def value_text(value: Value, taker: Op | None = None, shape: bool = True) -> Text:
    """`weights1 (2, 3)`, as it is called where `taker` takes it; without its shape, if that is not wanted."""
    text = Text()
    style = "gradient" if value.gradient_of is not None else "value.name"
    text.append(value.name if taker is None else taker.called(value), style=style)
    if shape:
        text.append(f" {shape_text(value.shape)}", style="value.shape")
    return text


def constant_text(part: object) -> str:
    """Return an argument that is not a tensor, in few characters."""
    if isinstance(part, float):
        return number(part)
    if isinstance(part, slice):
        ends = [("" if end is None else constant_text(end)) for end in (part.start, part.stop)]
        return ":".join(ends) + ("" if part.step is None else f":{part.step}")
    text = text_of(part).removeprefix("mlx.core.") if not isinstance(part, str) else repr(part)
    return text if len(text) <= 40 else text[:37] + "..."


def inputs_text(op: Op, shapes: bool = True) -> Text:
    """Return what goes in: with its sign between the operands where the op has one; tensors with their shapes, or
    without."""
    parts: list[Text] = []
    if isinstance(op, BackwardOp) or op.operation.kind in ("custom", "checkpoint", "opaque", "jvp"):
        shown = _gradients_first(op) if isinstance(op, BackwardOp) else list(dict.fromkeys(op.inputs))
        parts = [_part_text(value, op, shapes) or value_text(value, op, shapes) for value in shown]
    else:
        for arg in op.args:
            parts.append(_argument_text(arg, op, shapes))
        for name, arg in op.kwargs.items():
            if arg is not None and name not in ("stream", "key"):
                parts.append(Text(f"{name}=", style="dim").append_text(_argument_text(arg, op, shapes)))
    sign = op.operation.infix
    if sign is not None and len(parts) == 2:
        reverse = op.operation.spelling.startswith("__r")
        left, right = (parts[1], parts[0]) if reverse else (parts[0], parts[1])
        return left.append(f" {sign} ").append_text(right)
    if op.operation.name == "matmul" and len(parts) == 2:
        return parts[0].append(" @ ").append_text(parts[1])
    if op.operation.name == "accumulate" and len(parts) == 2:
        return parts[0].append(" + ").append_text(parts[1])
    return Text(", ").join([part for part in parts if part])


def _part_text(value: Value, op: Op, shapes: bool) -> Text | None:
    """Return the address of one of the parts that a sum of gradients adds up; None for anything else."""
    if op.operation.name != "accumulate" or value.op is None or value.op.pass_.adds_to(value) is None:
        return None
    text = Text(f"{value.op.label}.{value.slot}" if value.slot else value.op.label, style="gradient")
    return text.append(f" {shape_text(value.shape)}", style="value.shape") if shapes else text


def _argument_text(arg: object, op: Op, shapes: bool) -> Text:
    if isinstance(arg, Value):
        return value_text(arg, op, shapes)
    if isinstance(arg, (list, tuple)) and any(isinstance(item, Value) for item in arg):
        return Text("[").append_text(Text(", ").join([_argument_text(item, op, shapes) for item in arg])).append("]")
    if type(arg).__name__ == "Data":
        return Text("data", style="dim")
    if type(arg).__name__ == "DrawnKey" or arg is None:
        return Text("")
    if isinstance(arg, tuple) and any(isinstance(item, slice) for item in arg):
        return Text("[" + ", ".join(constant_text(item) for item in arg) + "]")
    return Text(constant_text(arg))


def _gradients_first(op: BackwardOp) -> list[Value]:
    """Return the gradients that go in; what else the VJP needs stands in its forward op."""
    gradients = [value for value in op.inputs if value.gradient_of is not None]
    return gradients or list(op.inputs)


_ROOM = 30
"""A result without a name is shown by its shape where so many columns are left."""
_LEAST = 8
"""In fewer columns than this what goes into an op is not shown at all."""


def flow_text(op: Op, room: int) -> Text:
    """Return what goes into an op and what comes out, in so many columns. Where there is no room for all of it the
    dtype goes first, then the shapes of what goes in, then those of what comes out; at last what goes in is cut: the
    result stays.
    """
    text = Text()
    for inputs, shapes, dtype in ((True, True, True), (True, True, False), (False, True, False), (False, False, False)):
        text, out = inputs_text(op, inputs), outputs_text(op, shapes, dtype)
        if not out and (bare := outputs_text(op, dtype=False)).cell_len + _ROOM <= room:
            out = bare  # what has no name has its shape
        if op.error is not None:
            out = Text(f"✗  {type(op.error).__name__}", style="error")
        arrow = ("  →  " if op.error is None else "  ") if out else ""
        if text.cell_len + len(arrow) + out.cell_len <= room:
            break
        text.truncate(max(room - len(arrow) - out.cell_len, 0), overflow="ellipsis")
        text, arrow = (text, arrow) if text.cell_len >= _LEAST or not out else (Text(), arrow.lstrip())
    return text.append(arrow).append_text(out)


def outputs_text(op: Op, shapes: bool = True, dtype: bool = True) -> Text:
    """Return what comes out: `z1 (1, 3) float32`; a result without a name has only its shape. Without shapes, or the
    dtype, if they are not wanted."""
    shown: list[Text] = []
    for value in op.outputs:
        text = Text()
        name = op.called(value)
        if not name.startswith("#"):
            text.append(name, style="gradient" if value.gradient_of is not None else "value.name")
            text.append(" " if shapes else "")
        if op.pass_.adds_to(value) is not None:
            text = Text("part of ", style="dim").append_text(text)
        text.append(shape_text(value.shape) if shapes else "", style="value.shape")
        shown += [text] if text else []
    line = Text(", ").join(shown[:4])
    if len(shown) > 4:
        line.append(f", ... ({len(shown)} outputs)", style="dim")
    if op.outputs and dtype:
        line.append(f" {dtype_text(op.outputs[0].dtype)}", style="value.dtype")
    return line


def op_line(op: Op) -> Text:
    """`#2 add   #1 (1, 3) + bias1 (3,)  →  z1 (1, 3) float32`."""
    text = Text()
    text.append(f"{op.label} ".ljust(4), style="op.number")
    text.append(op.name, style="op.name")
    text.append(" " * max(1, 9 - len(op.name)))
    text.append_text(inputs_text(op))
    if op.error is not None:
        text.append(f"  ✗  {type(op.error).__name__}", style="error")
    else:
        text.append("  →  ").append_text(outputs_text(op))
    return text


def state_of(op: Op) -> str:
    """`lazy`, `evaluated`, `edited`, `dropped` or `failed`."""
    if op.error is not None:
        return "failed"
    if op.operation.kind == "edit":
        return "edited"
    if op.outputs and all(value.evaluated for value in op.outputs):
        return "evaluated"
    if any(value.dropped for value in op.outputs):
        return "dropped"
    return "lazy"


def leaf_text(value: Value) -> str:
    """Where a leaf came from."""
    if not isinstance(value, Leaf):
        return ""
    if value.kind == "captured" and value.tape.closed:
        return "made in what is closed, or outside of the recording"
    return {
        "parameter": "a parameter",
        "input": "an input",
        "constant": "a constant",
        "captured": "captured from outside of the recording",
        "seed": "the gradient that the backward pass starts from",
        "thread": "made in another thread",
        "tracer": "a tracer that a compiled function left: MLX cannot evaluate it",
        "hole": "a hole: it came from something that was not recorded",
    }.get(value.kind, value.kind)
