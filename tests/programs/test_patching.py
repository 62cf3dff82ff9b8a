"""Patching: what lives does what the new version of its file says, and after the way back what the old one says.

Each change is held against a module that Python makes of the changed text, by all that can be asked of it.
"""

from __future__ import annotations

import builtins
import gc
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from nnrepl.programs.patching import Patch, Version, _reach, new_constants

BASE = '''\
"""A module."""
import math
from functools import wraps

SCALE = 10


def twice(function):
    @wraps(function)
    def run(*args, **kwargs):
        """Twice what it gives."""
        return 2 * function(*args, **kwargs)
    return run


def plain(x, y=1, *rest, z=2, **more):
    """A docstring."""
    x = x + 100
    return x + y * 3 + sum(rest) + z + len(more)


@twice
def decorated(x):
    return x + 7


def maker(step):
    def inner(x, by=5):
        return x + step * by
    adders = [lambda x, at=at: x + at for at in range(3)]
    return inner, adders


def looped():
    found = []
    for at in range(2):
        def one(x):
            return x - 1
        found.append(one)
    return found


if False:
    def never(x):
        return x


def again(x):
    return x + 1


first_again = again


def again(x):
    return x + 2


square = lambda x: x * x
cube = lambda x: x * x * x


class Base:
    def kept(self):
        return "base"

    def over(self):
        return "base over"


class Thing(Base):
    """A class."""
    unit = 4

    def __init__(self):
        self.start = 3

    def method(self, x, more=6):
        """A method."""
        return self.start + x + more + self.__hidden()

    def over(self):
        return super().over() + " and more"

    def __hidden(self):
        return 1000

    @property
    def half(self):
        return self.start / 2

    @classmethod
    def of_class(cls, x):
        return cls.unit + x

    @staticmethod
    def of_none(x):
        return x * 8

    class Inner:
        def deep(self, x=1):
            return "deep" * x


made_inner, made_adders = maker(2)
made_looped = looped()
thing, inside = Thing(), Thing.Inner()
alias, bound = plain, thing.method
'''


def _answers(module: Any) -> dict[str, Any]:
    """All that can be asked of what lives in a module, each with its answer or what it raises."""
    thing = module.thing
    asked = {
        "plain": lambda: module.plain(1), "rest": lambda: module.plain(1, 2, 3, 4, z=5, more=6),
        "alias": lambda: module.alias(2), "bound": lambda: module.bound(1),
        "decorated": lambda: module.decorated(1), "name": lambda: (module.decorated.__name__, module.plain.__doc__),
        "inner": lambda: module.made_inner(1), "new inner": lambda: module.maker(3)[0](1),
        "adders": lambda: [one(10) for one in module.made_adders], "looped": lambda: [f(1) for f in module.made_looped],
        "square": lambda: (module.square(3), module.cube(3)), "method": lambda: thing.method(1),
        "method doc": lambda: thing.method.__doc__, "over": lambda: (thing.over(), thing.kept()),
        "half": lambda: thing.half() if callable(thing.half) else thing.half,
        "class": lambda: module.Thing.of_class(1), "static": lambda: thing.of_none(2),
        "deep": lambda: module.inside.deep(),
        "deepest": lambda: module.inside.deepest(), "again": lambda: (module.first_again(1), module.again(1)),
        "new": lambda: module.added(2), "limit": lambda: module.LIMIT,
        "new method": lambda: thing.extra(1), "docs": lambda: (module.decorated.__doc__, module.square.__doc__),
    }  # fmt: skip
    found = {}
    for name, ask in asked.items():
        try:
            found[name] = ask()
        except Exception as error:
            found[name] = type(error)
    return found


CHANGES = {
    "a first statement after the docstring": ("x = x + 100", "x = x + 200", {"plain"}),
    "a docstring": ('"""A docstring."""', '"""Another."""', set()),
    "a comment": ("    x = x + 100", "    # no change\n    x = x + 100", set()),
    "an annotation": ("def plain(x, y=1", "def plain(x: int, y: int=1", set()),
    "the last statement": ("len(more)", "len(more) * 50", {"plain"}),
    "a default": ("y=1, *rest, z=2", "y=11, *rest, z=22", {"plain"}),
    "a default less": ("y=1, *rest", "y, *rest", {"plain"}),
    "parameters exchanged": ("def plain(x, y=1,", "def plain(y, x=1,", {"plain"}),
    "what a decorator does": ("return 2 * function", "return 3 * function", {"run"}),
    "a decorator less": ("@twice\ndef dec", "def dec", {"decorated"}),
    "a decorator more": ("def plain(", "@twice\ndef plain(", {"plain"}),
    "behind a decorator": ("return x + 7", "return x + 70", {"decorated"}),
    "an inner function": ("x + step * by", "x - step * by", {"inner"}),
    "a lambda in a list": ("x + at for", "x - at for", {"<lambda>"}),
    "a function made in a loop": ("return x - 1", "return x - 10", {"one"}),
    "the second lambda": ("x * x * x", "x * x * 5", {"<lambda>"}),
    "a method": ("self.start + x + more", "self.start - x - more", {"method"}),
    "a method's default": ("more=6", "more=60", {"method"}),
    "a private method": ("return 1000", "return 2000", {"_Thing__hidden"}),
    "a method with super()": ('" and more"', '" and less"', {"over"}),
    "super() more": ('return "base"\n', "return super().__str__()[:1]\n", {"kept"}),
    "a property": ("self.start / 2", "self.start / 4", {"half"}),
    "a property no more": ("@property\n    def half", "def half", {"half"}),
    "a class method": ("cls.unit + x", "cls.unit - x", {"of_class"}),
    "a static method": ("x * 8", "x * 80", {"of_none"}),
    "an inner class's method": ('return "deep"', 'return "deeper"', {"deep"}),
    "a method of the base class no more hidden": (
        '    def over(self):\n        return super().over() + " and more"\n\n', "", {"over"}),
    "a new function, import and constant": (
        "square = lambda", "from math import floor\nLIMIT = -3 + 1\n\ndef added(x):\n"
        "    return floor(x + 0.5) + LIMIT\n\n\nsquare = lambda", {"added"}),
    "an inner class's default": ("deep(self, x=1)", "deep(self, x=2)", {"deep"}),
    "an inner class's new method": (
        "        def deep(", "        def deepest(self):\n            return 2\n\n        def deep(", {"deepest"}),
    "a new inner function": (
        "    x = x + 100", "    def low(x):\n        return -x\n\n    x = low(x) + 100", {"plain", "low"}),
    "what is never compiled": ("never(x):\n        return x\n", "never(x):\n        return -x\n", {"never"}),
    "the second of one name": ("return x + 2", "return x + 20", {"again"}),
    "one more of that name": (
        "def again(x):\n    return x + 2", "def again(x):\n    pass\n\n\ndef again(x):\n    return x + 2", {"again"}),
    "a new method": ("    class Inner", "    def extra(self, x):\n        return x + self.unit\n\n    class Inner",
                     {"extra"}),
}  # fmt: skip


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A module that lives; only what it holds is looked through for functions, not all that the tests hold."""
    made = _module(tmp_path / "lives.py", BASE)
    monkeypatch.setitem(sys.modules, "lives", made)
    monkeypatch.setattr(gc, "get_objects", lambda: _held(made))
    return made


def _held(module: ModuleType) -> list[Any]:
    found: dict[int, Any] = {}
    pending: list[Any] = [vars(module)]
    while pending:
        one = pending.pop()
        if id(one) not in found and one is not vars(builtins) and not isinstance(one, ModuleType):
            found[id(one)] = one
            pending += gc.get_referents(one) if getattr(one, "__module__", "lives") == "lives" else []
    return list(found.values())


def _module(path: Path, text: str) -> ModuleType:
    module = ModuleType("lives")
    module.__file__ = str(path)
    exec(compile(text, str(path), "exec", dont_inherit=True), vars(module))
    return module


@pytest.mark.parametrize("change", CHANGES)
def test_what_lives_does_what_the_new_source_says_and_back(module: ModuleType, tmp_path: Path, change: str) -> None:
    before, after, names = CHANGES[change]
    assert BASE.count(before) == 1, change
    text = BASE.replace(before, after)
    old, new = (Version(str(module.__file__), version) for version in (BASE, text))
    was, wanted = _answers(module), _answers(_module(tmp_path / "other.py", text))
    patch = Patch(old, new)
    assert patch.changed == names
    for _ in range(2):  # taken again it is the same
        patch.take()
        assert _answers(module) == wanted
        patch.give_back()
        assert _answers(module) | {"limit": was["limit"]} == was  # a constant stays


def test_what_is_gone_from_the_source_stays(module: ModuleType) -> None:
    """Something may use it."""
    text = BASE.replace("def plain(", "def other(").replace("    def of_class(", "    def of_another(")
    patch = Patch(*(Version(str(module.__file__), version) for version in (BASE, text)))
    assert ({one.name for one in patch.gone}, patch.overrides) == ({"plain", "Thing.of_class"}, [])
    assert patch.changed == {"other", "of_another"}
    was = _answers(module)
    patch.take()
    assert _answers(module) == was
    assert (module.other(1), module.Thing.of_another(1)) == (was["plain"], was["class"])
    patch.give_back()
    assert not hasattr(module, "other")
    assert not hasattr(module.Thing, "of_another")


def test_what_the_module_does_besides_is_not_run(module: ModuleType) -> None:
    """A lambda by itself is nothing that could be taken in."""
    text = BASE + "more = lambda x: x + 1\nprint(SCALE)\nSCALE = 20\n"
    was, names = _answers(module), set(vars(module))
    Patch(*(Version(str(module.__file__), version) for version in (BASE, text))).take()
    assert (_answers(module), set(vars(module)), module.SCALE) == (was, names, 10)


def test_only_a_constant_under_a_new_name_is_taken_in() -> None:
    added = "A = 1\nB = (1, -2.5)\nSCALE = 3\nC = D = 4\nE = math.pi\nsquare = 5\nF: int = 6\nG = []\n"
    old, new = (Version("lives.py", text) for text in (BASE, BASE + added))
    assert [node.targets[0].id for node in new_constants(old, new)] == ["A", "B"]  # type: ignore[attr-defined]


def test_which_functions_may_call_which() -> None:
    def outer() -> Any:
        return lambda: aimed()  # type: ignore[name-defined]  # noqa: F821

    def caller() -> Any:
        return outer()

    def alone() -> None:
        len([])

    bodies = {one.__name__: {one.__code__} for one in (outer, caller, alone)}

    def reach(first: str, *names: str) -> tuple[bool, set[str]]:
        clear: set[str] = set()
        return _reach([first], set(names), bodies, clear), clear

    assert reach("caller", "aimed") == (True, set()), "in a lambda of what it calls"
    assert reach("alone", "aimed") == (False, {"alone", "len"})
    assert [reach(one, "<lambda>")[0] for one in ("outer", "caller", "alone")] == [True, True, False]
    assert reach("outer", "outer") == (True, set())
    clear = {"outer"}
    assert not _reach(["caller"], {"aimed"}, bodies, clear), "it is known of what is called"
    assert clear == {"outer", "caller"}
