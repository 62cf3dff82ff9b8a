"""Titles: what the functions of a program and their arguments are called."""

from __future__ import annotations

import functools
import inspect
from types import CodeType
from typing import Any


def title(fun: Any) -> str:
    """Return what to call a function in a list of passes."""
    inner = own_function(fun)
    if getattr(type(inner), "transforms", False) and inner.name != "compile":
        return f"{inner.name} of {title(inner.fun)}"
    name = getattr(inner, "__qualname__", None) or getattr(inner, "__name__", None) or type(inner).__name__
    return str(name).replace(".<locals>", "")


def message_of(error: BaseException | None) -> str:
    """Return what an exception says; the program's own may raise one where it is asked."""
    try:
        return str(error)
    except Exception:
        return "(its message cannot be read)"


def own_function(fun: Any) -> Any:
    """Return the program's own function, without what `partial` and nn.value_and_grad wrap around it."""
    while isinstance(fun, functools.partial):
        fun = fun.func
    return inner_function(fun)


def code_of(fun: Any) -> CodeType | None:
    """Return the code of a program's function (of its `__call__`, where it is an object); None where it has none."""
    inner = own_function(fun)
    while isinstance(inner, functools.partial):
        inner = inner.func
    code = getattr(inner, "__code__", None) or getattr(type(inner).__call__, "__code__", None)
    return code if isinstance(code, CodeType) else None


def inner_function(fun: Any) -> Any:
    """Return the program's own function inside of nn.value_and_grad's (which holds it in a closure cell)."""
    code = getattr(fun, "__code__", None)
    if code is not None and fun.__module__ == "mlx.nn.utils" and "fn" in code.co_freevars:
        return fun.__closure__[code.co_freevars.index("fn")].cell_contents
    return fun


def model_of(fun: Any) -> Any:
    """Return the model whose parameters nn.value_and_grad's inner function is given; None for another function."""
    code = getattr(fun, "__code__", None)
    if code is not None and fun.__module__ == "mlx.nn.utils" and "model" in code.co_freevars:
        return fun.__closure__[code.co_freevars.index("model")].cell_contents
    return None


def parameter_names(fun: Any, args: tuple[Any, ...]) -> list[str]:
    """Return the names of a function's positional parameters, as many as there are arguments."""
    try:
        known = list(inspect.signature(fun).parameters.values())
    except (TypeError, ValueError):
        known = []
    names: list[str] = []
    for number in range(len(args)):
        if number < len(known) and known[number].kind in (
            inspect.Parameter.POSITIONAL_ONLY,
            inspect.Parameter.POSITIONAL_OR_KEYWORD,
        ):
            names.append(known[number].name)
        else:
            names.append(_rest_name(fun, number))
    return names


def _rest_name(fun: Any, number: int) -> str:
    """Return the name of an argument that went into `*args`: nn.value_and_grad passes everything on that way."""
    inner = inner_function(fun)
    if inner is not fun:
        passed = number - 1
        try:
            names = list(inspect.signature(inner).parameters)
        except (TypeError, ValueError):
            names = []
        if passed < len(names):
            return names[passed]
    return f"arg{number}"
