"""Convolutions: a window slides over the input; at each place the numbers under it are weighed and added up."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import mlx.core as mx

from nnrepl.ops.bilinear import bilinear
from nnrepl.ops.entry import Slope, formula, reworded
from nnrepl.ops.traits import Trait

_WORDS = (
    "A small window slides over the input. At each place the numbers under it are multiplied by the window's "
    "weights and "
    "added up. Backwards: a weight's gradient is the sum over all places where the window lay."
)


def per_axis(option: Any, count: int) -> list[int]:
    """Return an option for every axis: one number stands for all."""
    return [int(option)] * count if isinstance(option, int) else [int(part) for part in option]


def _grown(x: mx.array, steps: list[int]) -> mx.array:
    """Return the input with zeros between its elements: what `input_dilation` does."""
    for axis, step in enumerate(steps, 1):
        if step > 1:
            wide = mx.expand_dims(x, axis + 1)
            room = [(0, 0)] * wide.ndim
            room[axis + 1] = (0, step - 1)
            shape = [*x.shape[:axis], x.shape[axis] * step, *x.shape[axis + 1 :]]
            wide = mx.reshape(mx.pad(wide, room), shape)
            x = mx.split(wide, [shape[axis] - step + 1], axis=axis)[0]
    return x


def _padded(x: mx.array, low: list[int], high: list[int], steps: list[int]) -> mx.array:
    """Pad. Where it is negative MLX cuts off, and that before it puts zeros between the elements."""
    for axis, (a, b) in enumerate(zip(low, high), 1):
        if a < 0 or b < 0:
            x = mx.split(x, [max(-a, 0), x.shape[axis] - max(-b, 0)], axis=axis)[1]
    return mx.pad(_grown(x, steps), [(0, 0), *((max(a, 0), max(b, 0)) for a, b in zip(low, high)), (0, 0)])


def windows(x: mx.array, size: list[int], stride: list[int], dilation: list[int]) -> mx.array:
    """Every window of `x`: (batch, *places, *window, channels)."""
    count = len(size)
    for axis in range(1, count + 1):
        k, s, d = size[axis - 1], stride[axis - 1], dilation[axis - 1]
        places = (x.shape[axis] - (k - 1) * d - 1) // s + 1
        index = (mx.arange(places) * s)[:, None] + (mx.arange(k) * d)[None]
        x = mx.take(x, index.flatten(), axis=axis)
        x = mx.reshape(x, [*x.shape[:axis], places, k, *x.shape[axis + 1 :]])
        x = mx.moveaxis(x, axis + 1, -2) if axis <= count else x
    return x


def convolve(
    x: mx.array, w: mx.array, stride: Any = 1, low: Any = 0, high: Any = 0, dilation: Any = 1, grow: Any = 1,
    groups: int = 1, flip: bool = False,
) -> mx.array:  # fmt: skip
    """Return the convolution as windows and one matrix product a group."""
    count = w.ndim - 2
    size = list(w.shape[1:-1])
    x = _padded(x, per_axis(low, count), per_axis(high, count), per_axis(grow, count))
    if flip:
        for axis in range(1, count + 1):
            w = mx.take(w, mx.arange(w.shape[axis] - 1, -1, -1), axis=axis)
    seen = windows(x, size, per_axis(stride, count), per_axis(dilation, count))
    places = seen.shape[: count + 1]
    results = []
    for part, kernel in zip(mx.split(seen, groups, axis=-1), mx.split(w, groups, axis=0)):
        rows = mx.reshape(part, (*places, -1))
        weights = mx.reshape(kernel, (kernel.shape[0], -1))
        results.append(mx.matmul(rows, weights.T))
    return results[0] if groups == 1 else mx.concatenate(results, axis=-1)


def _by_window(forward: Any) -> dict[str, Slope]:
    """Return the slopes of a convolution, which is a sum of products of x and w: by taking the formula's own VJP."""

    def of(which: int) -> Any:
        def run(g: mx.array, y: Any, x: mx.array, w: mx.array, *args: Any, **kwargs: Any) -> mx.array:
            given = [x, w]

            def partly(part: mx.array) -> mx.array:
                given[which] = part
                result: mx.array = forward(*given, *args, **kwargs)
                return result

            return mx.vjp(partly, [given[which]], [g])[1][0]

        return run

    return {
        "x": Slope("Σ {g} · {w} over the windows that saw it", of(0)),
        "w": Slope("Σ {g} · {x} over all places", of(1)),
    }


def _write(name: str, text: str, forward: Any) -> None:
    formula(name, text, _WORDS, slopes=_by_window(forward), traits=(Trait.PRODUCT,))(forward)


_TEXT = "Σ over window and channels of {x}[place · {stride} + k · {dilation} − {padding}] · {w}[k]"
_PADDED = "Σ over window and channels of {x}[place + k − {padding}] · {w}[k]"
_PLAIN = "Σ over window and channels of {x}[place + k] · {w}[k]"


def _is(given: Any, wanted: int) -> bool:
    """Whether an option is one number, for each axis."""
    return set(per_axis(given, 1)) == {wanted}


def _by_ones(bound: Mapping[str, Any]) -> bool:
    return _is(bound["stride"], 1) and _is(bound["dilation"], 1)


def _conv(x: Any, w: Any, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1) -> Any:
    return convolve(x, w, stride, padding, padding, dilation, 1, groups)


for _name in ("conv1d", "conv2d", "conv3d"):
    _write(_name, _TEXT, _conv)
    reworded(_name, _by_ones, _PADDED)
    reworded(_name, lambda bound: _by_ones(bound) and _is(bound["padding"], 0), _PLAIN)


def _conv_general(
    x: Any, w: Any, stride: Any = 1, padding: Any = 0, kernel_dilation: Any = 1, input_dilation: Any = 1,
    groups: int = 1, flip: bool = False,
) -> Any:  # fmt: skip
    pair = isinstance(padding, (list, tuple)) and len(padding) == 2 and not isinstance(padding[0], int)
    low, high = padding if pair else (padding, padding)
    return convolve(x, w, stride, low, high, kernel_dilation, input_dilation, groups, flip)


_GENERAL = _TEXT.replace("{dilation}", "{kernel_dilation}")
_write("conv_general", _GENERAL, _conv_general)
reworded("conv_general", lambda bound: bool(bound["flip"]), _GENERAL.replace("{w}[k]", "{w}[−k], turned round"))


def _conv_transpose(
    x: Any, w: Any, stride: Any = 1, padding: Any = 0, dilation: Any = 1, output_padding: Any = 0, groups: int = 1
) -> Any:
    count = w.ndim - 2
    steps, room, apart = per_axis(stride, count), per_axis(padding, count), per_axis(dilation, count)
    more = per_axis(output_padding, count)
    low = [d * (k - 1) - p for d, k, p in zip(apart, w.shape[1:-1], room)]
    high = [at + extra for at, extra in zip(low, more)]
    return convolve(x, w, 1, low, high, apart, steps, groups, flip=True)


for _name in ("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"):
    _write(_name, "Σ over the places whose window covers this one of {x}[place] · {w}[k]", _conv_transpose)

bilinear(
    "x", "w", "conv1d", "conv2d", "conv3d", "conv_general", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d"
)
