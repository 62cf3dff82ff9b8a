"""Catalog: which of MLX's callables become ops, which are marks, and which are not recordable, and why.

The catalog is read from MLX itself: every public function of the modules in `MODULES` and every method,
operator and property of `mx.array` is recorded unless it is named below. A function that a later MLX adds
is therefore recorded on the day it appears.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from types import ModuleType
from typing import Any

import mlx.core as mx

from nnrepl.classes import dataclass
from nnrepl.record.strays import raw
from nnrepl.tape import Operation

MODULES: dict[str, ModuleType] = {
    "mx": mx,
    "mx.fast": mx.fast,
    "mx.linalg": mx.linalg,
    "mx.fft": mx.fft,
    "mx.random": mx.random,
    "mx.distributed": mx.distributed,
}

_SETTINGS = "a setting of MLX, no tensor goes in or comes out"
_QUERY = "answers a question about MLX or a dtype, no tensor comes out"
_EXPORT = "writes the graph away; the function it traces runs on MLX's own placeholders"
_OBJECT = "part of Python's object protocol, no tensor comes out"
_METADATA = "shape, dtype and sizes are known without the graph"

NOT_RECORDED: dict[str, str] = {
    **dict.fromkeys(
        (
            "mx.clear_cache mx.clear_streams mx.reset_peak_memory mx.set_cache_limit mx.set_memory_limit "
            "mx.set_wired_limit mx.set_printoptions mx.printoptions mx.get_printoptions "
            "mx.new_stream mx.new_thread_local_stream mx.new_thread_unsafe_stream "
            "mx.synchronize mx.distributed.init"
        ).split(),
        _SETTINGS,
    ),
    **dict.fromkeys(
        (
            "mx.broadcast_shapes mx.can_cast mx.default_device mx.default_stream mx.device_count "
            "mx.device_info mx.einsum_path mx.get_active_memory mx.get_array_buffer_size "
            "mx.get_cache_memory mx.get_memory_limit mx.get_peak_memory mx.is_available mx.isdtype "
            "mx.issubdtype mx.result_type mx.distributed.is_available mx.__array_namespace_info__ "
            "mx.random.__getattr__"
        ).split(),
        _QUERY,
    ),
    **dict.fromkeys("mx.export_function mx.exporter mx.export_to_dot".split(), _EXPORT),
    **dict.fromkeys(
        (
            "array.__class__ array.__delattr__ array.__dir__ array.__getattribute__ array.__hash__ "
            "array.__init_subclass__ array.__new__ array.__reduce__ array.__reduce_ex__ array.__setattr__ "
            "array.__sizeof__ array.__subclasshook__ array.__doc__ array.__module__ array.__setstate__ "
            "array.__array_namespace__ array.__dlpack_device__"
        ).split(),
        _OBJECT,
    ),
    **dict.fromkeys(
        "array.dtype array.itemsize array.nbytes array.ndim array.shape array.size array.__len__".split(),
        _METADATA,
    ),
    **dict.fromkeys(
        "array.__buffer__ array.__release_buffer__".split(),
        "a method of that name since Python 3.12, but NumPy and memoryview go past it, through the type's slot",
    ),
    "array.__copy__": "a second Python object for the same tensor: recorded as the same value",
    "array.__deepcopy__": "a second Python object for the same tensor: recorded as the same value",
}

SYNCS = frozenset(
    (
        "mx.eval mx.async_eval mx.save mx.savez mx.savez_compressed mx.save_safetensors mx.save_gguf "
        "array.item array.tolist array.__array__ array.__bool__ array.__bytes__ array.__complex__ "
        "array.__float__ array.__format__ array.__index__ array.__int__ array.__repr__ array.__str__ "
        "array.__dlpack__ array.__getstate__"
    ).split()
)
"""Calls that force an evaluation: marks in the tape, not ops."""

TRANSFORMS = frozenset("mx.grad mx.value_and_grad mx.vjp mx.jvp mx.vmap mx.compile mx.checkpoint".split())
"""Functions of functions, taken over by `nnrepl.record.transforms` and its neighbours."""

MAKERS = frozenset("mx.import_function mx.fast.metal_kernel mx.fast.cuda_kernel".split())
"""Functions that return a function whose calls are ops."""

SWITCHES = frozenset("mx.disable_compile mx.enable_compile mx.random.seed".split())
"""Settings that decide what later calls do: followed."""

STREAMS = frozenset("mx.stream mx.set_default_device mx.set_default_stream".split())
"""Where ops run: followed, so that an op's VJP runs where the op did."""

SPECIAL = frozenset(
    (
        "array.__init__ array.__iter__ array.at array.__setitem__ mx.load "
        "mx.custom_function mx.ArrayIterator mx.ArrayAt"
    ).split()
)
"""Caught in a way of their own by `nnrepl.record.intercept`."""

TYPES: dict[str, str] = {
    "mx.ArrayLike": "a type for annotations",
    "mx.Device": _QUERY,
    "mx.Dtype": _QUERY,
    "mx.FunctionExporter": _EXPORT,
    "mx.PrintOptions": _SETTINGS,
    "mx._PrintOptionsContext": _SETTINGS,
    "mx.Stream": _SETTINGS,
    "mx.StreamContext": _SETTINGS,
    "mx.ThreadLocalStream": _SETTINGS,
    "mx.finfo": _QUERY,
    "mx.iinfo": _QUERY,
    "mx.distributed.Group": _SETTINGS,
    "mx.random._RandomState": "the global random state; its reads enter the tape as constants",
}
"""MLX's types whose construction is not an op, and why."""

_DUNDERS = {
    "abs": "abs",
    "add": "add",
    "and": "bitwise_and",
    "div": "divide",
    "eq": "equal",
    "floordiv": "floor_divide",
    "ge": "greater_equal",
    "getitem": "getitem",
    "gt": "greater",
    "invert": "bitwise_invert",
    "le": "less_equal",
    "lshift": "left_shift",
    "lt": "less",
    "matmul": "matmul",
    "mod": "remainder",
    "mul": "multiply",
    "ne": "not_equal",
    "neg": "negative",
    "or": "bitwise_or",
    "pos": "positive",
    "pow": "power",
    "rshift": "right_shift",
    "setitem": "setitem",
    "sub": "subtract",
    "truediv": "divide",
    "xor": "bitwise_xor",
}

_SIGNS = {
    "add": "+", "and": "&", "div": "/", "eq": "==", "floordiv": "//", "ge": ">=", "gt": ">", "le": "<=",
    "lshift": "<<", "lt": "<", "matmul": "@", "mod": "%", "mul": "*", "ne": "!=", "or": "|", "pow": "**",
    "rshift": ">>", "sub": "-", "truediv": "/", "xor": "^",
}  # fmt: skip

_AUGMENTED = frozenset("iadd iand ifloordiv ilshift imatmul imod imul ior ipow irshift isub itruediv ixor".split())


@dataclass(frozen=True)
class Callee:
    """One callable of MLX: where it hangs, what it is called, and how it is treated.

    Attributes:
        key: Its full name, `mx.fast.rope` or `array.sum`.
        holder: The module or type whose attribute it is.
        attribute: The attribute's name.
        original: What MLX put there.
        treatment: "op", "augmented", "property", "sync", "transform", "maker", "stream", "switch", "special", "skip".
    """

    key: str
    holder: Any
    attribute: str
    original: Any
    treatment: str


def _callees() -> Iterator[Callee]:
    for prefix, module in MODULES.items():
        for attribute in sorted(vars(module)):
            original = getattr(module, attribute)
            if type(original).__name__ in ("nb_func", "function"):
                key = f"{prefix}.{attribute}"
                yield Callee(key, module, attribute, original, _treatment(key))
    for attribute in dir(mx.array):
        key = f"array.{attribute}"
        original = mx.array.__dict__.get(attribute, getattr(mx.array, attribute))
        if isinstance(original, property):
            known = key in NOT_RECORDED or key in SPECIAL
            yield Callee(key, mx.array, attribute, original, _treatment(key) if known else "property")
        else:
            yield Callee(key, mx.array, attribute, original, _treatment(key))


def _treatment(key: str) -> str:
    if key in NOT_RECORDED:
        return "skip"
    for names, treatment in (
        (SYNCS, "sync"),
        (TRANSFORMS, "transform"),
        (MAKERS, "maker"),
        (STREAMS, "stream"),
        (SWITCHES, "switch"),
        (SPECIAL, "special"),
    ):
        if key in names:
            return treatment
    return "augmented" if key.removeprefix("array.").strip("_") in _AUGMENTED else "op"


@cache
def operation(callee: Callee) -> Operation:
    """Return the operation that a call of `callee` is, under the name that the field uses."""
    if callee.key.startswith("array."):
        return _method(callee)
    name = callee.key.removeprefix("mx.")
    return Operation(_ALIASES.get(name, name), raw(callee.original), callee.key)


def _method(callee: Callee) -> Operation:
    bare = callee.attribute.strip("_")
    if callee.treatment == "property":
        getter = callee.original.fget
        return Operation({"T": "transpose", "mT": "matrix_transpose"}.get(bare, bare), getter, f".{bare}")
    if not callee.attribute.startswith("__"):
        return Operation(bare, callee.original, f"array.{bare}")
    stem = bare
    if stem not in _DUNDERS and stem[1:] in _DUNDERS:
        stem = stem[1:]
    sign = _SIGNS.get(stem)
    swapped = stem != bare and bare.startswith("r")
    spelling = callee.attribute if swapped or sign is None else sign
    return Operation(_DUNDERS.get(stem, bare), callee.original, spelling, infix=sign)


_ALIASES = {
    "concat": "concatenate", "conjugate": "conj", "bitwise_left_shift": "left_shift",
    "bitwise_right_shift": "right_shift", "cumulative_sum": "cumsum", "cumulative_prod": "cumprod",
    "permute_dims": "transpose", "pow": "power", "acos": "arccos", "acosh": "arccosh", "asin": "arcsin",
    "asinh": "arcsinh", "atan": "arctan", "atan2": "arctan2", "atanh": "arctanh",
}  # fmt: skip


CALLEES: tuple[Callee, ...] = tuple(_callees())
"""Every callable of MLX that nnrepl knows of, straight from MLX's own listing."""


@cache
def key_position(function: Any) -> int | None:
    """At which position a function of `mx.random` takes its `key`, None if it draws none.

    nanobind functions have no `inspect.signature`; the first line of the docstring is their signature.
    """
    head = (function.__doc__ or "").strip().split("\n", 1)[0]
    inside = re.search(r"\((.*)\) ->", head)
    if inside is None:
        return None
    depth, names, word = 0, [], ""
    for sign in inside.group(1) + ",":
        depth += (sign in "[(") - (sign in "])")
        if sign == "," and depth == 0:
            names.append(word.split(":")[0].strip())
            word = ""
        else:
            word += sign
    if "key" not in names or "key: array | None" not in head.replace("mlx.core.", ""):
        return None
    return names.index("key")
