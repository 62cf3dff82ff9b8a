"""What is offered while one types, where a command takes a place."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import pytest
from prompt_toolkit.buffer import Buffer
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document

import nnrepl
from nnrepl.shell.complete import NameCompleter, TapeIndex, kind_of
from nnrepl.shell.key_bindings import _tab
from tests.support import OpenSession


class Doubling(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = mx.array(2.0)

    def doubled(self, x: mx.array) -> mx.array:
        return x * self.scale

    def __call__(self, x: mx.array) -> mx.array:
        return self.doubled(x)


def offered(session: OpenSession, text: str) -> list[str]:
    index = TapeIndex(session)
    while not index.advance():
        pass
    completer = NameCompleter(session.interpreter, index)
    return [found.text for found in completer.get_completions(Document(text), CompleteEvent())]


def summed(model: Doubling, x: mx.array) -> mx.array:
    return model(x).sum()


@pytest.mark.parametrize("command", ["goto", "until", "break", "tbreak"])
@pytest.mark.parametrize(
    ("typed", "wanted"),
    [("Doub", "Doubling"), ("Doubling.", "Doubling.doubled"), ("Doubling.__c", "Doubling.__call__"), ("sum", "summed")],
)
def test_functions_classes_and_methods_are_places(command: str, typed: str, wanted: str) -> None:
    model = Doubling()
    session = OpenSession(nnrepl.trace(summed, model, mx.ones(2), wrt=model))
    session.cursor = 0
    assert wanted in offered(session, f"{command} {typed}")
    assert session.place(wanted).first_after(session.tape, 0) is not None


def test_variables_are_offered_with_their_type_however_they_are_kept() -> None:
    """A class is kept weakly, a module by its holder, a long list by its length."""

    def f(x: mx.array) -> mx.array:
        kind, model, many, text = Doubling, Doubling(), list(range(9000)), "a"
        y = x * 2
        return (model(y) * len(many) * (kind is not None) * len(text)).sum()

    session = OpenSession(nnrepl.trace(f, mx.ones(2), wrt=0))
    session.cursor = 1
    index = TapeIndex(session)
    while not index.advance():
        pass
    found = NameCompleter(session.interpreter, index).get_completions(Document("p "), CompleteEvent())
    told = {one.text: one.display_meta_text.split(" ")[0] for one in found}
    kinds = {"kind": "type", "model": "Doubling", "many": "list", "text": "str"}
    assert {name: told.get(name) for name in kinds} == kinds


class Various:
    """One attribute of each kind."""

    number = 3
    inner = Doubling

    @property
    def made(self) -> int:
        raise AssertionError("completion runs nothing of the program")

    def method(self) -> None:
        """A method."""


@pytest.mark.parametrize(
    ("thing", "word", "wanted"),
    [(Various(), "number", "int"), (Various(), "inner", "type"), (Various(), "made", "property"),
     (Various(), "method", "method"), (Various(), "absent", ""), (math, "pi", "float"), (math, "sin", "method"),
     (math, "absent", "")],
)  # fmt: skip
def test_the_kind_of_an_attribute_is_told_without_running_anything(thing: Any, word: str, wanted: str) -> None:
    assert kind_of(thing, word) == wanted


@pytest.mark.parametrize(
    ("typed", "offers", "then", "chosen"),
    [
        ("p lo", ["logits", "logistic"], "p logi", None),  # as far as all of them go
        ("p lo", ["loss"], "p loss", None),
        ("p lo", ["loss", "lone"], "p lo", False),  # then the choice is shown
        ("p lo", ["floats"], "p lo", True),  # the only one, which does not begin so
        ("p lo", [], "p lo", None),
    ],
)
def test_tab_inserts_what_all_share(typed: str, offers: list[str], then: str, chosen: bool | None) -> None:
    class Offering(Completer):
        def get_completions(self, document: Document, event: CompleteEvent) -> Iterator[Completion]:
            yield from (Completion(offer, -2) for offer in offers)

    shown: list[bool] = []
    buffer = Buffer(Offering(), document=Document(typed))
    buffer.start_completion = lambda select_first: shown.append(select_first)  # type: ignore[method-assign]
    _tab(buffer)
    assert (buffer.text, shown) == (then, [] if chosen is None else [chosen])
