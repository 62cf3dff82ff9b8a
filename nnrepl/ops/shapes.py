"""Shapes: numbers are moved, repeated or left out; none is changed.

The formula is `y = a[where it came from]`. Where each number came from is read off by moving numbered places in the
same way, so that one rule, and one gradient, serves all of them.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import mlx.core as mx

from nnrepl.ops.entry import FIXED, MOVE, Entry, Slope, enter, reworded
from nnrepl.ops.pointwise import whole
from nnrepl.ops.traits import Trait

NOWHERE = 0


def move(name: str, text: str, words: str, run: Callable[..., Any], traits: tuple[Trait, ...]) -> None:
    """Enter an op that moves the numbers of its first argument.

    Args:
        run: MLX's own op: it moves the places, the formula takes the numbers from there.
    """

    def forward(a: mx.array, *args: Any, **kwargs: Any) -> Any:
        a = mx.array(a)
        numbered = places(a)
        moved = run(numbered, *args, **kwargs)
        if isinstance(moved, mx.array):
            return _from(a, moved)
        return [_from(a, part) for part in moved]

    if inspect.isfunction(run):  # MLX's own have no signature that Python can read
        forward.__signature__ = inspect.signature(run)  # type: ignore[attr-defined]

    def slope(g: Any, y: Any, a: mx.array, *args: Any, **kwargs: Any) -> mx.array:
        moved = run(places(a), *args, **kwargs)
        if isinstance(moved, mx.array):
            return back(a, [moved], [g])
        return back(a, list(moved), list(g))

    slopes = {"a": Slope("{g}, put back where it came from", slope)}
    enter(Entry(name, text, words, forward, slopes, MOVE, traits=frozenset(traits)))


def places(a: mx.array) -> mx.array:
    """Return the places of a tensor, numbered from 1."""
    return mx.reshape(mx.arange(1, a.size + 1), a.shape)


def _from(a: mx.array, moved: mx.array) -> mx.array:
    flat = a.flatten()
    taken = mx.take(flat, mx.maximum(moved - 1, 0))
    return mx.where(moved == NOWHERE, mx.zeros_like(taken), taken)


def back(a: mx.array, moved: list[mx.array], gradients: list[mx.array | None]) -> mx.array:
    """Gradients put back to where their numbers came from; what was used several times gets the sum."""
    total = mx.zeros((a.size + 1,), a.dtype)
    for part, gradient in zip(moved, gradients):
        if gradient is not None:
            total = total.at[part.flatten()].add(gradient.flatten().astype(a.dtype))
    return mx.reshape(total[1:], a.shape)


def _given(args: tuple[Any, ...]) -> Any:
    """`x.transpose(1, 0)` and `x.transpose((1, 0))` mean the same."""
    return args[0] if len(args) == 1 and isinstance(args[0], (list, tuple)) else args


def _transpose(a: mx.array, *args: Any, axes: Any = None) -> mx.array:
    order = axes if axes is not None else _given(args)
    return mx.transpose(a, list(order)) if order else mx.transpose(a)


_TRAITS = {
    **dict.fromkeys(("reshape", "transpose", "matrix_transpose", "swapaxes", "moveaxis", "expand_dims", "squeeze",
                     "flatten", "unflatten", "contiguous", "roll", "flip"), (Trait.ARRANGES,)),
    **dict.fromkeys(("broadcast_to", "repeat"), (Trait.REPEATS, Trait.SPREADS)), "tile": (Trait.REPEATS,),
    "as_strided": (Trait.PICKS, Trait.REPEATS),
}  # fmt: skip

_UNCHANGED = " Backwards: each gradient goes back to where its number came from."

for _name, _text, _words, _run in (
    ("reshape", "{a} in another shape", "The same numbers in the same order, in another shape.",
     lambda a, *args, shape=None: mx.reshape(a, list(shape if shape is not None else _given(args)) if not (
         len(args) == 1 and isinstance(args[0], int)) else [args[0]])),
    ("transpose", "{a} with its axes in another order", "The axes change places: rows become columns.", _transpose),
    ("matrix_transpose", "{a}ᵀ", "The last two axes change places.", lambda a: mx.swapaxes(a, -1, -2)),
    ("swapaxes", "{a} with two axes exchanged", "Two axes change places.", mx.swapaxes),
    ("moveaxis", "{a} with an axis moved", "An axis moves to another place.", mx.moveaxis),
    ("expand_dims", "{a} with one more axis", "Adds an axis of length 1; the numbers stay.", mx.expand_dims),
    ("squeeze", "{a} without axes of length 1", "Drops axes of length 1; the numbers stay.", mx.squeeze),
    ("flatten", "{a} with axes joined", "Joins axes into one; the numbers stay in order.", mx.flatten),
    ("unflatten", "{a} with an axis split", "Splits an axis into several; the numbers stay in order.", mx.unflatten),
    ("broadcast_to", "{a}, repeated", "Repeats along axes of length 1, without copying.", mx.broadcast_to),
    ("split", "pieces of {a}", "Cuts into pieces along an axis.", mx.split),
    ("repeat", "each number of {a}, several times", "Repeats each number.", mx.repeat),
    ("tile", "{a}, several times", "Repeats the whole.", mx.tile),
    ("roll", "{a}, moved on", "Moves along an axis; what falls off comes back at the other end.", mx.roll),
    ("flip", "{a}, turned round", "The same numbers in the opposite order.", mx.flip),
    ("contiguous", "{a}", "The same numbers, laid out in order in memory.", mx.contiguous),
    ("as_strided", "windows of {a}", "Reads memory in another pattern: the same numbers may appear several times.",
     lambda a, *args, **kwargs: mx.as_strided(mx.contiguous(a), *args, **kwargs)),
    ("diagonal", "a diagonal of {a}", "The numbers on a diagonal: the main one, or as many beside it as asked for.",
     mx.diagonal),
    ("diag", "{a} on, or from, the diagonal", "Takes the diagonal of a matrix, or makes a matrix with it.", mx.diag),
    ("tril", "{a}[i,j] where j ≤ i + {k}, else 0", "Keeps the lower triangle; the rest becomes 0.", mx.tril),
    ("triu", "{a}[i,j] where j ≥ i + {k}, else 0", "Keeps the upper triangle; the rest becomes 0.", mx.triu),
    ("unstack", "rows of {a}", "Takes the slices along an axis apart.", lambda a, axis=0: [
        mx.squeeze(part, axis) for part in mx.split(a, a.shape[axis], axis)]),
    ("slice", "a piece of {a}", "Cuts out a piece.", mx.slice),
):  # fmt: skip
    move(_name, _text, _words + _UNCHANGED, _run, _TRAITS.get(_name, (Trait.PICKS,)))


def _joined(run: Callable[..., Any]) -> tuple[Any, Any]:
    """Return the formula of an op that puts several tensors together, and its gradient."""

    def numbered(arrays: list[mx.array]) -> list[mx.array]:
        start, result = 0, []
        for array in arrays:
            result.append(places(array) + start)
            start += array.size
        return result

    def forward(arrays: list[mx.array], axis: int = 0) -> mx.array:
        kind = mx.array(0, arrays[0].dtype)
        for array in arrays:
            kind = kind + mx.zeros((), array.dtype)
        flat = mx.stack([number for array in arrays for number in [array.flatten()[k] for k in range(array.size)]])
        return mx.take(flat.astype(kind.dtype), run(numbered(arrays), axis) - 1)

    def slope(g: mx.array, y: Any, arrays: list[mx.array], axis: int = 0) -> list[mx.array]:
        moved = run(numbered(arrays), axis)
        total = mx.zeros((sum(array.size for array in arrays) + 1,), g.dtype)
        total = total.at[moved.flatten()].add(g.flatten())
        start, parts = 1, []
        for array in arrays:
            parts.append(mx.reshape(total[start : start + array.size], array.shape).astype(array.dtype))
            start += array.size
        return parts

    return forward, slope


for _name, _text, _words, _run in (
    ("concatenate", "{arrays}, one after the other", "Puts tensors one after the other along an axis.", mx.concatenate),
    ("stack", "{arrays}, side by side", "Puts tensors side by side along a new axis.", mx.stack),
):
    _forward, _slope = _joined(_run)
    _slopes = {"arrays": Slope("the part of {g} that came from it", _slope)}
    enter(Entry(_name, _text, _words + _UNCHANGED, _forward, _slopes, MOVE, traits=frozenset({Trait.JOINS})))


def _pad(a: mx.array, pad_width: Any, mode: str = "constant", constant_values: Any = 0) -> mx.array:
    moved = _pad_places(a, pad_width, mode)
    filler = mx.array(constant_values, a.dtype)
    return mx.where(moved == NOWHERE, filler, mx.take(a.flatten(), mx.maximum(moved - 1, 0)))


def _pad_places(a: mx.array, pad_width: Any, mode: Any) -> mx.array:
    return mx.pad(places(a), pad_width, mode)


def _pad_slope(
    g: mx.array, y: Any, a: mx.array, pad_width: Any, mode: str = "constant", constant_values: Any = 0
) -> mx.array:
    return back(a, [_pad_places(a, pad_width, mode)], [g])


enter(Entry("pad", "{a} with a border of {constant_values}",
            "Puts a border around. The border's gradient goes nowhere.", _pad,
            {"a": Slope("{g} without its border", _pad_slope)}, MOVE, traits=frozenset({Trait.JOINS})))  # fmt: skip
reworded("pad", lambda bound: bound["mode"] != "constant", "{a} with its numbers at the edge repeated around it",
         "Puts a border around, which repeats numbers of a: its gradient is added to theirs.",
         {"a": "{g} without its border, and that of the border added to the numbers it repeats"})  # fmt: skip


def _depends(inputs: Any, dependencies: Any) -> Any:
    return inputs


def _depends_slope(g: Any, y: Any, inputs: Any, dependencies: Any) -> Any:
    return g if isinstance(inputs, (list, tuple)) and isinstance(g, list) else [g] if isinstance(inputs, list) else g


enter(Entry("depends", "{inputs}", "The same numbers; they are only made after some others.", _depends,
            {"inputs": Slope("{g}", _depends_slope)}, MOVE, traits=frozenset({Trait.CONVERTS})))  # fmt: skip


def _all_sum(a: mx.array, group: Any = None) -> mx.array:
    return mx.distributed.all_sum(a, group=group)


enter(Entry("distributed.all_sum", "Σ {a} over all machines", "Adds up over machines.", _all_sum,
            {"a": Slope("{g}", lambda g, y, a, group=None: g)}, MOVE))  # fmt: skip


_more = {
    "atleast_1d": ("*arys", "{arys}, with at least one axis", "Adds axes of length 1 where there are too few."),
    "atleast_2d": ("*arys", "{arys}, with at least two axes", "Adds axes of length 1 where there are too few."),
    "atleast_3d": ("*arys", "{arys}, with at least three axes", "Adds axes of length 1 where there are too few."),
    "broadcast_arrays": ("*arrays", "{arrays}, repeated to one shape", "Repeats each along axes of length 1."),
    "meshgrid": ("*arrays, sparse=False, indexing='xy'", "{arrays} along the axes of a grid",
                 "The coordinates of all points of a grid."),
    "fft.fftshift": ("a, axes=None", "{a}, its halves exchanged", "The frequency 0 moves to the middle."),
    "fft.ifftshift": ("a, axes=None", "{a}, its halves exchanged back", "The frequency 0 moves to the beginning."),
}  # fmt: skip
for _name, (_parameters, _text, _words) in _more.items():
    _call = (lambda name: lambda *a, **k: _function(name)(*a, **k))(_name)
    _marks = (Trait.ARRANGES,) if _name.startswith(("atleast", "fft")) else (Trait.REPEATS,)
    whole(_name, _parameters, _text, _words + _UNCHANGED, _call, kind=MOVE, traits=_marks)


def _function(name: str) -> Callable[..., Any]:
    found: Callable[..., Any] = getattr(mx.fft if name.startswith("fft.") else mx, name.removeprefix("fft."))
    return found


whole("view", "a, dtype", "the bits of {a}, read as {dtype}", "The same bits mean other numbers. No gradient passes.",
      lambda a, dtype: mx.view(a, dtype), kind=FIXED)  # fmt: skip
whole("slice_update", "a, update, start_indices, axes", "{a} with {update} put in from {start_indices} on",
      "Puts a piece in place of another. What was overwritten gets no gradient.",
      lambda *a, **k: mx.slice_update(*a, **k), traits=(Trait.PUTS,), kind=MOVE)  # fmt: skip
