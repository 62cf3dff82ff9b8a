"""Classes: what is written later does what `dataclasses` writes at once."""

from __future__ import annotations

import copy
import dataclasses
import importlib
import pickle
import sys
from collections.abc import Callable
from dataclasses import FrozenInstanceError, field
from typing import Any, ClassVar, Generic, TypeVar

import pytest

from nnrepl.classes import dataclass as late
from tests.support import ROOT

T = TypeVar("T")


class Family:
    """Classes as the house has them, made by one of the two."""

    def __init__(self, dataclass: Any) -> None:
        @dataclass(frozen=True, slots=True)
        class Point(Generic[T]):
            kinds: ClassVar[int] = 3
            x: T
            y: int = 2

            @property
            def sum(self) -> Any:
                return self.x + self.y  # type: ignore[operator]

        @dataclass(frozen=True, slots=True)
        class Named(Point[int]):
            name: str = "it"

        @dataclass
        class Bag:
            things: list[int] = field(default_factory=list)
            hidden: int = field(default=7, repr=False, compare=False)

        @dataclass(slots=True)
        class Begun:
            given: int
            made: int = field(default=0, init=False)

            def __post_init__(self) -> None:
                self.made = self.given * 2

        @dataclass(eq=False, slots=True)
        class Itself:
            x: int

        @dataclass(frozen=True)
        class Own:
            x: int

            def __repr__(self) -> str:
                return "own"

            def __eq__(self, other: object) -> bool:
                return True

            def __hash__(self) -> int:
                return 5

        class Plain(Own):
            """Is no dataclass, and has attributes of its own."""

        self.Point, self.Named, self.Bag, self.Begun, self.Itself, self.Own, self.Plain = made = (
            Point, Named, Bag, Begun, Itself, Own, Plain
        )  # fmt: skip
        for one in made:
            one.__qualname__ = one.__name__


def matched(point: Any, kind: Any) -> Any:
    match point:
        case kind(x, y):
            return x, y


def attempt(do: Callable[[], Any]) -> Any:
    """Return what something gives, or the error that it ends with."""
    try:
        return do()
    except Exception as error:
        return type(error), str(error)


def set_own(point: Any, name: str) -> Any:
    setattr(point, name, 8)
    return vars(point)


QUESTIONS: dict[str, Callable[[Family], Any]] = {
    "made": lambda f: repr([f.Point(1), f.Point(1, y=5), f.Named(1, 2, "b"), f.Bag([3]), f.Begun(4)]),
    "too few": lambda f: attempt(lambda: f.Point()),
    "too many": lambda f: attempt(lambda: f.Point(1, 2, 3)),
    "unknown": lambda f: attempt(lambda: f.Begun(given=1, made=3)),
    "equal": lambda f: (f.Point(1) == f.Point(1), f.Point(1) == f.Point(2), f.Point(1) == f.Named(1), f.Point(1) != 1),
    "hidden": lambda f: (f.Bag([1], 2) == f.Bag([1], 3), f.Bag.hidden, attempt(lambda: f.Bag.things)),
    "hash": lambda f: (hash(f.Point(1)) == hash(f.Point(1)), len({f.Named(1), f.Named(1)}), hash(f.Own(1))),
    "no hash": lambda f: attempt(lambda: hash(f.Bag())),
    "by identity": lambda f: (f.Itself(1) == f.Itself(1), len({f.Itself(1), f.Itself(1)})),
    "written by hand": lambda f: (repr(f.Own(1)), f.Own(1) == 3),
    "set": lambda f: attempt(lambda: setattr(f.Point(1), "x", 3)),
    "set what it has not": lambda f: attempt(lambda: setattr(f.Own(1), "z", 3)),
    "deleted": lambda f: attempt(lambda: delattr(f.Point(1), "x")),
    "a field of a class that stands on it": lambda f: attempt(lambda: set_own(f.Plain(1), "x")),
    "an attribute of a class that stands on it": lambda f: set_own(f.Plain(1), "z"),
    "replaced": lambda f: repr(dataclasses.replace(f.Named(1), y=9)),
    "fields": lambda f: [(one.name, one.init) for one in dataclasses.fields(f.Begun)],
    "as a dict": lambda f: dataclasses.asdict(f.Named(1)),
    "is one": lambda f: (dataclasses.is_dataclass(f.Point), dataclasses.is_dataclass(f.Plain(1))),
    "matched": lambda f: (matched(f.Point(1), f.Point), f.Named.__match_args__),
    "copied": lambda f: repr([copy.copy(f.Named(1)), copy.deepcopy(f.Bag([1])), copy.copy(f.Begun(2))]),
    "each its own": lambda f: f.Bag().things is not f.Bag().things,
    "property": lambda f: (f.Point(1).sum, f.Point.kinds),
    "slots": lambda f: (f.Point.__slots__, f.Named.__slots__, f.Begun.__slots__, hasattr(f.Bag, "__slots__")),
    "no dict": lambda f: (hasattr(f.Named(1), "__dict__"), hasattr(f.Bag(), "__dict__")),
    "names": lambda f: (f.Point.__module__, f.Point(1).__init__.__name__),
}


@pytest.mark.parametrize("question", QUESTIONS)
def test_does_as_dataclasses(question: str) -> None:
    """Each question is put to classes that nothing was asked of before."""
    assert QUESTIONS[question](Family(late)) == QUESTIONS[question](Family(dataclasses.dataclass))


def test_nothing_is_written_before_it_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    original = dataclasses.dataclass

    def noted(**options: bool) -> Any:
        written.extend(name for name in ("init", "repr", "eq") if options[name])
        return original(**options)

    monkeypatch.setattr(dataclasses, "dataclass", noted)
    family = Family(late)
    assert not written
    first, second = family.Point(1), family.Point(1)
    assert written == ["init"]
    assert first == second
    assert hash(first) == hash(second)
    assert written == ["init", "eq"]


@late(frozen=True, slots=True)
class Sent:
    """What is pickled has to be found by its name."""

    x: int


def test_is_pickled() -> None:
    assert pickle.loads(pickle.dumps(Sent(3))) == Sent(3)
    with pytest.raises(FrozenInstanceError):
        Sent(3).x = 4  # type: ignore[misc]


def test_every_class_of_the_house_has_the_slots_that_dataclasses_gives() -> None:
    for file in sorted((ROOT / "nnrepl").rglob("*.py")):
        if file.stem != "__main__":
            importlib.import_module(".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"))
    checked = 0
    for module in [it for name, it in sorted(sys.modules.items()) if name.startswith("nnrepl.")]:
        for cls in vars(module).values():
            if isinstance(cls, type) and cls.__module__ == module.__name__ and "__dataclass_fields__" in vars(cls):
                names = {one.name for one in dataclasses.fields(cls)}  # type: ignore[arg-type]
                held = {name for base in cls.__mro__ for name in vars(base).get("__slots__", ())}
                assert names <= held if "__slots__" in vars(cls) else names.isdisjoint(vars(cls).get("__slots__", ()))
                checked += 1
    assert checked > 200
