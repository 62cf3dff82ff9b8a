"""Streams: what a program has in the place of standard output, and what becomes of what it puts there itself."""

from __future__ import annotations

import errno
import io
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nnrepl.programs import streams
from nnrepl.programs.streams import HeldRaw, ProgramStream, is_held, opened, shut

SYS: Any = sys
"""As which a stream of a name of its own is held: standard output is pytest's."""


class Held:
    """A stream of a program on a file, and what came by."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.real = open(path, "w", encoding="utf-8", newline="", buffering=4096)  # noqa: SIM115
        self.came: list[bytes] = []
        self.holds = False
        self.stream = ProgramStream("made", self.keep)

    def keep(self, stream: ProgramStream, data: bytes) -> bool:
        assert stream is self.stream
        self.came.append(data)
        return self.holds

    def shown(self) -> str:
        self.real.flush()
        return self.path.read_text(encoding="utf-8")


@pytest.fixture
def held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Held]:
    made = Held(tmp_path / "out")
    monkeypatch.setattr(sys, "made", made.real, raising=False)
    monkeypatch.setattr(sys, "__made__", made.real, raising=False)
    yield made
    made.stream.give_back()
    made.real.close()


def test_what_is_printed_is_shown_unless_it_is_kept(held: Held) -> None:
    held.stream.enter()
    assert SYS.made is not held.real
    assert SYS.__made__ is SYS.made
    assert (SYS.made.encoding, SYS.made.errors) == ("utf-8", "strict")
    assert (SYS.made.isatty(), SYS.made.fileno()) == (False, held.real.fileno())
    assert SYS.made.buffer.writable()
    held.real.write("before ")
    print("é", end="", file=SYS.made)
    assert held.shown() == "before é"
    held.holds = True
    print("kept", file=SYS.made)
    SYS.made.flush()
    assert held.shown() == "before é"
    assert b"".join(held.came) == "ékept\n".encode()
    held.stream.show(b" shown\r\n")
    assert held.path.read_bytes() == "before é shown\r\n".encode()
    assert held.stream.text(b"\xc3\xa9\xff") == "é\ufffd"


def test_what_the_program_puts_there_is_there_whenever_it_runs_on(held: Held) -> None:
    held.stream.leave()  # it has not begun
    held.stream.enter()
    stand_in, own = SYS.made, io.TextIOWrapper(io.BytesIO(), "utf-8")
    SYS.made = own
    own.write("its own")
    held.stream.leave()
    assert (SYS.made, SYS.__made__, own.buffer.getvalue()) == (held.real, held.real, b"its own")
    held.stream.enter()
    assert (SYS.made, SYS.__made__) == (own, stand_in)
    held.stream.enter()
    assert SYS.made is own
    own.detach()
    held.stream.leave()  # what the program has taken the end away from is not flushed
    held.stream.enter()
    held.stream.begin()
    assert SYS.made is held.real
    held.stream.enter()
    assert SYS.made not in (own, held.real)
    SYS.made = other = io.StringIO()
    held.stream.give_back()
    assert SYS.made is other
    assert SYS.__made__ is held.real
    held.stream.enter()  # no stream of Python's: there is nothing that could stand in
    assert SYS.made is other


def test_a_stream_that_stands_in_still_passes_on_what_a_program_has_kept(held: Held) -> None:
    held.stream.enter()
    kept = SYS.made
    held.stream.give_back()
    assert SYS.made is held.real
    print("late", file=kept)
    assert held.shown() == "late\n"


def test_a_program_that_closes_its_descriptor_closes_none_of_nnrepls(held: Held) -> None:
    number = held.real.fileno()
    assert not shut(number)
    assert opened(number, "w") is None
    held.stream.enter()
    assert shut(number)
    with pytest.raises(OSError, match="Bad file descriptor") as twice:
        shut(number)
    with pytest.raises(OSError, match="Bad file descriptor") as printed:
        print("gone", file=SYS.made)
    assert twice.value.errno == printed.value.errno == errno.EBADF
    assert not shut(number + 1000)
    held.real.write("open still")
    assert held.shown() == "open still"
    held.stream.leave()
    assert opened(number, "w") is None


def test_what_open_gives_for_a_stream_is_on_the_same_one(held: Held, monkeypatch: pytest.MonkeyPatch) -> None:
    number = held.real.fileno()
    held.stream.enter()
    assert opened(number, "r") is None
    assert opened(str(held.path), "w") is None
    assert opened(number + 1000, "w") is None
    monkeypatch.setitem(streams._AS_FILES, "/dev/stdout", number)
    texts: dict[tuple[Any, ...], str] = {
        (number, "w"): "a",
        (Path("/dev/stdout"), "a"): "b",
        ("/dev/stdout", "r+"): "c",
    }
    for given, text in texts.items():
        end = opened(*given)
        assert end is not None
        end.write(f"{text}\n")
        assert text not in held.shown()  # a file waits until it is flushed
        end.close()
    lines, parts = opened(number, "w", 1), opened(number, "w", newline="\r\n", encoding="latin-1")
    assert lines is not None and parts is not None  # noqa: PT018
    lines.write("line\n")
    assert held.shown().endswith("line\n")
    parts.write("é\n")
    parts.close()
    raw, few = opened(number, "wb", 0), opened(number, "wb", 2)
    assert isinstance(raw, HeldRaw)
    assert isinstance(few, io.BufferedWriter)
    raw.write(b"raw")
    few.write(b"few")
    few.close()
    assert held.path.read_bytes() == b"a\nb\nc\nline\n\xe9\r\nrawfew"


def test_what_goes_with_what(held: Held, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stream(real: Any) -> ProgramStream:
        made = ProgramStream("stderr", lambda stream, data: False)
        made.real = real
        return made

    with open(held.path, "a") as same, open(tmp_path / "other", "w") as another:
        one, other = stream(held.real), stream(another)
        assert one.goes_with(one)
        assert one.goes_with(stream(same))
        assert not one.goes_with(other)
        assert one.goes_with(stream(io.StringIO()))
    assert is_held(held.real)
    assert not is_held(io.StringIO())
    kernel = type("OutStream", (io.StringIO,), {"__module__": "ipykernel.iostream", "encoding": "ascii"})()
    assert is_held(kernel)
    streams.write(kernel, b"a\xff")
    assert kernel.getvalue() == "a\ufffd"
