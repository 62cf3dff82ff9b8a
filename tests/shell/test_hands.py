"""The full screen has hands: every pane takes keys, the wheel and clicks, and says what they stand for.

`python -m tests.shell.test_hands` writes the screens in tests/shell/screens anew; read the difference.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

import nnrepl
from nnrepl.session.session import TapeSession
from tests.shell.hands import Desk, desk
from tests.shell.screened import made
from tests.support import OpenSession

SCREENS = Path(__file__).parent / "screens"
SIZES = ((80, 24), (120, 40), (200, 60))


@pytest.fixture
def session(monkeypatch: pytest.MonkeyPatch) -> OpenSession:
    for name in ("NO_COLOR", "COLORTERM"):
        monkeypatch.delenv(name, raising=False)
    return made()


@pytest.fixture
def at(session: OpenSession) -> Iterator[Desk]:
    with desk(session) as it:
        yield it


def rows(seen: str, part: str) -> list[str]:
    return [line for line in seen.split("\n") if part in line]


# -- keys --------------------------------------------------------------------------------------------------------


def test_arrows_in_the_ops(at: Desk) -> None:
    seen = at.press("F2", "F2", "Down", "Down")
    assert "Enter look" in seen  # the key bar says what keys do there
    assert at.ran == []
    at.press(" ")
    assert at.ran == ["goto #3"]
    at.press("Up", "Enter")
    assert at.ran[1:] == ["explain #2"]
    at.press("b")
    seen = at.press("t")
    assert at.ran[2:] == ["break #2", "until #2"]
    assert "(nnrepl) break #2" in seen  # what a key did is echoed as the command
    seen = at.press("Esc")
    assert "F5 run" in seen
    at.press("F2", "F2", "p 40 + 2", "Enter")  # what is no key of the pane is typed at the prompt
    assert at.ran[4:] == ["p 40 + 2"]


def test_a_line_gets_a_breakpoint_and_loses_it(at: Desk) -> None:
    number = int(re.findall(r"▶ +(\d+) ", at.press())[0])
    seen = at.press("F2", "Down", "b")
    assert at.ran == [f"break screened.py:{number + 1}"]
    assert rows(seen, f"● {number + 1:4d} ")
    seen = at.press("b")
    assert at.ran[1:] == [f"clear screened.py:{number + 1}"]
    assert not rows(seen, f"● {number + 1:4d} ")
    at.press("Enter")
    assert at.ran[2:] == [f"goto screened.py:{number + 1}"]


def test_every_pane_can_be_entered_and_left(at: Desk) -> None:
    at.line("display hidden")
    seen = at.press("F2", "F2", "F2", "Down", "Enter")
    assert at.ran[1:] == ["p first.weight"]
    assert "first.weight = [[" in seen
    at.press("F2", "Enter")
    assert at.ran[2:] == ["p hidden"]
    at.press("F2", "Down", "Down", "F2", "F2")  # the curves, what was shown, and the prompt again
    assert "F5 run" in at.press()


def test_a_pane_that_is_no_longer_seen_has_no_keys(at: Desk) -> None:
    assert "Enter look" in at.press("F2", "Tab")
    at.resize(60, 12)
    assert "F8 step" in at.press()
    at.press("p 7", "Enter")
    assert at.ran == ["p 7"]


def test_each_picture_is_shown_at_once(at: Desk) -> None:
    at.line("s")
    assert at.wire.raw.count("\x1b[?2026h") == at.wire.raw.count("\x1b[?2026l") > 0
    assert not re.search(r"2026h[^\x1b]*\x1b\[\?2026h", at.wire.raw)


# -- the mouse ---------------------------------------------------------------------------------------------------


def test_clicks(at: Desk) -> None:
    at.mouse("max(first.x, 0)")
    assert at.ran == ["goto #3"]
    at.mouse("hidden = mx.maximum")
    line = at.ran[1]
    assert re.fullmatch(r"break screened.py:\d+", line)
    at.mouse("hidden = mx.maximum")
    assert at.ran[2] == line.replace("break", "clear")
    at.mouse("→ hidden")
    assert at.ran[3].startswith("goto #")
    at.mouse("F8 step")
    assert at.ran[4] == "step"
    seen = at.line("p 'look at #2'")
    at.mouse("#2'", nth=len(rows(seen, "#2'")) - 1)
    assert at.ran[6] == "goto #2"
    seen = at.mouse("── output")
    assert "Enter look" in seen
    assert "F5 run" in at.mouse("Esc prompt")


def test_the_wheel_moves_what_is_under_it(at: Desk) -> None:
    at.line("p list(range(100, 1900))")
    before = at.press()
    seen = at.mouse("x @ first.weight", "down")
    assert "x @ first.weight" not in seen
    assert rows(seen, "#4 ")
    assert rows(seen, "1899") == rows(before, "1899")
    last = [line for line in seen.split("\n") if re.match(r"\d+, ", line)][-1]
    seen = at.mouse(last[:20], "up")
    assert "1899" not in seen
    assert "1899" in at.line("p 1")  # what is new is seen
    assert at.ran == ["p list(range(100, 1900))", "p 1"]


def test_what_was_typed_comes_back_after_a_key(at: Desk) -> None:
    assert "(nnrepl) p hid" in at.press("p hid", "F8").split("\n")[-3]
    assert at.ran == ["step"]


# -- what is seen ------------------------------------------------------------------------------------------------


def test_the_segment_is_in_view_at_any_width(session: OpenSession) -> None:
    session.goto("max")
    with desk(session, 72, 24) as it:
        assert re.search(r"▶ +\d+ \S+ +….*mx.max\(hidden\)", it.press())
        assert re.search(r"▶ +\d+ \S+ +….*mx.max\(hidden\)", it.resize(100, 30))
        assert re.search(r"▶ +\d+ \S+ +scores = .*mx.max\(hidden\)", it.resize(300, 30))
        assert re.search(r"▶ +\d+ \S+ +….*mx.max\(hidden\)", it.resize(72, 24))


def test_tabs_and_wide_signs_in_the_source(tmp_path: Path, session: OpenSession) -> None:
    wide = "权重" * 20
    (tmp_path / "wide.py").write_text(
        f"import mlx.core as mx\ndef f(x):\n\tif True:\n\t\treturn ('{wide}', mx.tanh(x), mx.exp(x))\n",
        encoding="utf-8",
    )
    namespace: dict[str, Any] = {}
    file = tmp_path / "wide.py"
    exec(compile(file.read_text(encoding="utf-8"), str(file), "exec"), namespace)
    for place in ("tanh", "exp"):
        own = OpenSession(nnrepl.trace(namespace["f"], mx.ones(2)))
        own.goto(place)
        with desk(own, 80, 24) as it:
            seen = it.press()
            marked = "".join(data for data, cell in it.cells() if cell.reverse and not cell.bold).strip()
            assert f"mx.{place}(x)" in rows(seen, "▶   4 ")[0]
            assert marked == f"mx.{place}(x)"


def test_a_program_without_source(session: OpenSession) -> None:
    namespace: dict[str, Any] = {}
    exec(compile("import mlx.core as mx\ndef f(x):\n    return (x\n  + 1)", "<nowhere>", "exec"), namespace)
    with desk(OpenSession(nnrepl.trace(namespace["f"], mx.ones(2))), 80, 24) as it:
        assert "<nowhere>:3 in f" in it.press("F2", "Down", "b", "Enter")
        assert it.ran == []


def test_output_is_wrapped_anew(at: Desk) -> None:
    at.line("p 'word ' * 40")
    wide = rows(at.press(), "word ")
    narrow = rows(at.resize(60, 40), "word ")
    assert len(narrow) > len(wide)
    assert "".join(narrow).count("word") == "".join(wide).count("word") == 41
    assert rows(at.resize(120, 40), "word ") == wide


def test_results_come_before_shapes(session: OpenSession) -> None:
    session.goto("#3")
    with desk(session, 80, 24) as it:
        ops = [line.partition("│")[2] for line in rows(it.press(), "max(first.x")]
        assert re.match(r"▶ #3 ● hidden +max\(first.x, 0\)", ops[0])
    with desk(session, 120, 40) as it:
        ops = [line.partition("│")[2] for line in rows(it.press(), "│▶ #3")]
        assert ops[0].endswith("(3, 8)")


def test_loss_and_gradients(session: OpenSession) -> None:
    with desk(session) as it:
        seen = it.line("goto end")
        bars = [line.partition("│")[2] for line in seen.split("\n") if "██" in line]
        sizes = [float(line.split()[1]) for line in bars]
        assert sizes == sorted(sizes, reverse=True)
        weight = session.tape.passes[-1].wrt
        norms = {leaf.name: mx.linalg.norm(session.tape.passes[-1].grads[leaf][-1].array).item() for leaf in weight}
        assert {line.split()[0]: pytest.approx(float(line.split()[1]), rel=1e-3) for line in bars} == norms
        it.mouse(bars[0].split()[0], nth=-1)
        assert it.ran[1].startswith("goto #")


def test_pictures_have_the_room_of_their_pane(session: OpenSession) -> None:
    session.goto("#3")
    with desk(session, 120, 60, tensors="heatmap") as it:
        seen = it.line("display first.weight")
        assert "1: first.weight (8, 4) float32" in seen
        painted = [cell for data, cell in it.cells() if cell.bg not in ("default", "303030")]
        assert len(painted) >= 8 * 4 * 2


def test_without_colours(session: OpenSession, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    with desk(session) as it:
        it.press("F2", "F2", "Down")
        it.line("p x")
        assert not re.search(r"\x1b\[[\d;]*\b(?:3[0-8]|4[0-8]|9[0-7]|10[0-7])\b[\d;]*m", it.wire.raw)
        assert any(cell.reverse for _, cell in it.cells())


def test_true_colour_where_the_terminal_has_it(session: OpenSession, monkeypatch: pytest.MonkeyPatch) -> None:
    for said, expected in (("truecolor", "48;2;"), ("", "48;5;")):
        monkeypatch.setenv("COLORTERM", said)
        with desk(session, tensors="heatmap") as it:
            it.line("display first.weight")
            assert expected in it.wire.raw
            assert ("48;2;" if not said else "48;5;") not in it.wire.raw


# -- screens -----------------------------------------------------------------------------------------------------


def screens(session: TapeSession, columns: int, height: int, theme: str = "dark") -> Iterator[tuple[str, Desk]]:
    """Some moments at the full screen."""
    with desk(session, columns, height, theme=theme) as it:
        yield it.press("F8", "F8"), it
        it.line("display hidden")
        it.line("break mean")
        yield it.line("goto max"), it
        it.line("goto end")
        yield it.press("F7", "F2", "F2", "Up"), it


def written(session: TapeSession, columns: int, height: int) -> str:
    """The moments, as a file keeps them."""
    shown = [seen for seen, _ in screens(session, columns, height)]
    return ("\n" + "=" * columns + "\n").join(shown) + "\n"


@pytest.mark.parametrize(("columns", "height"), SIZES)
def test_screens(session: OpenSession, columns: int, height: int) -> None:
    seen = written(session, columns, height)
    assert seen == (SCREENS / f"{columns}x{height}.txt").read_text(encoding="utf-8")


PALETTE = {
    "black": "000000", "red": "cd0000", "green": "00cd00", "brown": "cdcd00", "blue": "1e6fff", "magenta": "cd00cd",
    "cyan": "00cdcd", "white": "e5e5e5", "brightblack": "7f7f7f", "brightred": "ff0000", "brightgreen": "00ff00",
    "brightbrown": "ffff00", "brightblue": "5c9cff", "brightmagenta": "ff00ff", "brightcyan": "00ffff",
    "brightwhite": "ffffff",
}  # fmt: skip
"""Those of xterm; blue as terminals have it since it could not be read on black."""


def light(colour: str) -> float:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (0, 2, 4)]
    linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("theme", ["dark", "light"])
def test_everything_can_be_read(session: OpenSession, theme: str) -> None:
    page, ink = ("000000", "e5e5e5") if theme == "dark" else ("ffffff", "000000")
    worst: dict[tuple[str, str], float] = {}
    for _, it in screens(session, 120, 40, theme):
        for data, cell in it.cells():
            if data.strip() and data not in "─│":
                front, back = (PALETTE.get(part, part) for part in (cell.fg, cell.bg))
                front, back = ink if front == "default" else front, page if back == "default" else back
                high, low = sorted((light(front), light(back)), reverse=True)
                worst[front, back] = (high + 0.05) / (low + 0.05)
    assert {pair: ratio for pair, ratio in worst.items() if ratio < 3.0} == {}


if __name__ == "__main__":
    SCREENS.mkdir(exist_ok=True)
    for columns, height in SIZES:
        (SCREENS / f"{columns}x{height}.txt").write_text(written(made(), columns, height), encoding="utf-8")
    sys.exit(0)
