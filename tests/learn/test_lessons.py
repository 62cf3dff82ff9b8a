"""Lessons: those that come with nnrepl hold to their last number, and a student may type what they like."""

from __future__ import annotations

import ast
import contextlib
import io
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlx.core as mx
import nbformat
import pytest
from rich.console import Console

import nnrepl
from nnrepl.cli import main
from nnrepl.commands import learning
from nnrepl.learn.lesson import LessonError, LessonQuestion, Prose, parse, read
from nnrepl.learn.progress import Reached, keep_progress, load_progress
from nnrepl.learn.shelf import find, lessons, shipped
from nnrepl.session.errors import Load, UserError
from nnrepl.shell import api
from nnrepl.shell.prompts import PROMPT
from nnrepl.shell.publishing import notebook, publish
from nnrepl.shell.publishing import played as published
from nnrepl.shell.student import Student, check, perform
from nnrepl.view.theme import THEMES
from tests.learn.playing import PROGRAM, lesson_of, played
from tests.shell.notebook import Notebook
from tests.support import OpenSession

ASK = "```nnrepl\ngoto forward\n```\n```question\nWhat is z?\nanswer: z[0, 1]\nafter: So it is.\n```\n"


@pytest.mark.parametrize("path", shipped(), ids=lambda path: path.stem)
def test_a_shipped_lesson_holds_and_is_shown_at_80_by_24(path: Path) -> None:
    lesson = next(lesson for lesson in lessons() if lesson.path == path)
    assert lesson.notes, "a teacher has nothing to say about it"
    screen = io.StringIO()
    chunks: list[str] = []

    class Watching(Student):
        def read(self, prompt: str = PROMPT) -> str | None:
            chunks.append(screen.getvalue())
            screen.seek(0)
            screen.truncate()
            return super().read(prompt)

    console = Console(file=screen, width=80, theme=THEMES["dark"], highlight=False, markup=False, emoji=False)
    with contextlib.redirect_stdout(screen):
        student = Watching(lesson)
        perform(student, console, present=True)
    assert not student.found.problems
    assert not student.found.remarks
    assert student.finished
    assert student.found.commands >= 3
    assert student.found.questions >= 3
    said = [chunk for chunk in chunks if PROMPT not in chunk and "✓ Done." not in chunk]
    assert len(said) > 5
    for chunk in said:
        assert chunk.count("\n") <= 22, chunk
        assert all(len(line.rstrip()) <= 80 for line in chunk.splitlines())


@pytest.mark.parametrize("seed", range(4))
def test_the_quiz_holds_whatever_is_drawn(seed: int) -> None:
    lesson = replace(find("quiz"), arguments=[str(seed)])
    found = check(lesson)
    assert not found.problems
    assert found.questions == 7
    see = [part.see for part in lesson.parts if isinstance(part, LessonQuestion)]
    assert sorted(set(see)) == ["1", "2", "3", "4", "5"]


def test_no_shipped_lesson_writes_an_answer_down() -> None:
    for lesson in lessons():
        for part in lesson.parts:
            if isinstance(part, LessonQuestion) and part.answer:
                with pytest.raises((ValueError, SyntaxError)):
                    ast.literal_eval(part.answer)


# -- wrong answers ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("2.75", "Right"),
        ("2,75", "Right: 2.75"),
        ("11/4", "Right: 2.75"),
        ("1*-1 + 2*2 - 0.25", "Right: 2.75"),
        ("2.8", "Right: 2.75"),
        ("-2.75", "look at the sign"),
        ("3", "You forgot to add bias[1]"),
        ("3.25", "added, not subtracted"),
        ("-1.25", "You forgot the product x[0,1] · weight[1,1]"),
        ("3.75", "You forgot the product x[0,0] · weight[0,1]"),
        ("-0.75", "Row and column are the wrong way round: that is z[1,0]."),
        ("4", "That takes row 1 of weight; it is column 1."),
        ("5.5", "twice as much"),
        ("2.5", "Near, but not it"),
        ("77", "Not so: it is less than that."),
        ("-77", "it is more than that. Its sign is another, too."),
    ],
)
def test_a_wrong_answer_is_told_what_it_is(tmp_path: Path, typed: str, said: str) -> None:
    screen = played(lesson_of(tmp_path, ASK), ["", typed])
    assert said in screen
    assert ("✓" in screen) == said.startswith("Right")


@pytest.mark.parametrize(
    "typed", ["", "q", "c", "h", "z", "q!", "apple", "1/0", "2 3 4", "(", "hello there", "1,2,3", "--", "nan"]
)
def test_what_is_no_answer_is_answered_kindly_and_asked_again(tmp_path: Path, typed: str) -> None:
    screen = played(lesson_of(tmp_path, ASK), ["", typed, "2.75"])
    assert "✓ Right" in screen
    assert "So it is." in screen
    assert "Traceback" not in screen


def test_a_letter_is_no_command_at_a_question(tmp_path: Path) -> None:
    screen = played(lesson_of(tmp_path, ASK), ["", "q", "quit", "2.75"])
    assert "q is short for the command quit; write it out here." in screen
    assert "✓" not in screen


def test_a_word_of_the_trade_is_linked_where_it_is_said_first(tmp_path: Path) -> None:
    text = "A **layer** has **biases**.\n\n---\n\nThe **layer** and **ReLU**, **nothing**.\n\n"
    text += "```nnrepl\ngoto forward\n```\n"
    screen = played(lesson_of(tmp_path, text), [""])
    assert screen.count("help layer · help bias") == 1
    assert screen.count("help ReLU") == 1
    assert screen.count("help layer") == 1
    assert "help nothing" not in screen


def test_control_c_and_control_d_lose_nothing(tmp_path: Path) -> None:
    lesson = lesson_of(tmp_path, ASK)
    assert "✓ Right" in played(lesson, [KeyboardInterrupt(), "", KeyboardInterrupt(), "2.75"])
    screen = played(lesson, ["", None, "2.75"])
    assert "Ctrl-D again leaves" in screen
    assert "✓ Right" in screen


def test_the_student_leaves_the_path_and_comes_back(tmp_path: Path) -> None:
    lesson = lesson_of(tmp_path, ASK + "Now {{z[0, 1]}} is there, with #1 next.\n\n```nnrepl\np #1\n```\n")
    away = ["bias[1] = 5", "continue", "p loss", "restart", "goto step 2"]
    screen = played(lesson, ["", *away, "", "2.75", "step 5", "bias = bias * 3", "learn next", ""])
    assert "timeline 2" in screen
    assert "✓ Right" in screen, "the answer is that of the lesson's own place"
    assert "back where the lesson was" in screen
    assert "Now 2.75 is there" in screen
    assert "[[" in screen.rpartition("(nnrepl) p #1")[2]


def test_the_lesson_goes_on_from_its_own_place(tmp_path: Path) -> None:
    lesson = lesson_of(tmp_path, ASK + "```nnrepl\nstep\n```\n")
    for away in (["goto backward", "2.75", ""], ["2.75", "goto backward", "learn next", ""]):
        screen = played(lesson, ["", *away])
        assert "forward 2 of 6" in screen.rpartition("(nnrepl) step")[2]


def test_an_answer_that_is_nearer_to_a_mistake_is_that(tmp_path: Path) -> None:
    lesson = lesson_of(tmp_path, ASK.replace("after:", "wrong: z[0, 1] + 0.07 :: Too much.\nafter:"))
    assert "✗ Too much." in played(lesson, ["", "2.80"])
    assert "✓ Right" in played(lesson, ["", "2.77"])


def test_a_short_form_of_the_lessons_own_command_goes_on_with_it(tmp_path: Path) -> None:
    text = "```nnrepl\ngoto forward\n```\n```nnrepl\nstep\n```\nWe stand at {{z[0, 0]}}.\n\n"
    text += "```nnrepl\nprint z\n```\nThe end.\n"
    screen = played(lesson_of(tmp_path, text), ["", "s", "step", "", "p z"])
    assert screen.count("We stand") == 1
    assert "back where the lesson was" in screen
    assert "The end." in screen


def test_a_question_computes_nothing_on_the_tape(tmp_path: Path) -> None:
    text = ASK + "```question\nAnd the gradient?\nanswer: grad(weight)[1, 0]\n```\n"
    screen = played(lesson_of(tmp_path, text), ["", "what #2", "what loss", "goto z", "ops", "", "2.75", "what #5"])
    assert screen.count("state     not computed yet") == 2
    assert "= 2.75" not in screen.partition("✓ Right")[0]


def test_hint_show_and_skip(tmp_path: Path) -> None:
    hinted = ASK.replace("after:", "hint: Two products.\nhint: And a bias.\nafter:")
    screen = played(lesson_of(tmp_path, hinted), ["", "hint", "hint", "hint", "show"])
    assert screen.count("And a bias.") == 2
    assert "It is 2.75." in screen
    assert "(nnrepl) explain #2 at [0, 1]" in screen
    assert "It is 2.75." in played(lesson_of(tmp_path, ASK), ["", "skip"])


def test_answers_are_counted(tmp_path: Path) -> None:
    text = ASK + ASK.replace("answer:", "see: 3\nanswer:") * 3
    lesson = lesson_of(tmp_path, text)
    screen = played(lesson, ["", "2.75", "", "3", "2.75", "", "hint", "2.75", "", "2,75"])
    assert "2 of 4 questions right at the first try. Worth another look: learn 3." in screen
    assert screen.count("So it is.") == 4
    assert "1 of 1 questions" in played(lesson_of(tmp_path, ASK), ["", "apple", "", "2.75"])
    assert "0 of 1 questions" in played(lesson_of(tmp_path, ASK), ["", "show"])


def test_before_a_question_nothing_of_the_answer_is_seen(tmp_path: Path) -> None:
    text = ASK + "```nnrepl\nstep\nstep\n```\n```question\nWhich?\noption: a :: True\noption: b :: False\n```\n"
    text += "```nnrepl\nstep\n```\nThe end.\n"
    screen = played(lesson_of(tmp_path, text), ["", "back", "step", "", "2.75", "", "1", ""])
    asked, _, rest = screen.partition("What is z?")
    assert "#1  x @ weight\n" in asked
    away, _, rest = rest.partition("✓ Right")
    assert "(2, 2) @ (2, 2) → (2, 2) float32" in away, "what the student does for themselves is shown whole"
    between, _, rest = rest.partition("Which?")
    assert "#2  z = x @ weight + bias   z[1,1] = 5 + (-0.25) = ?" in between, "the lesson moves on from there"
    assert between.rstrip().endswith("#3  max(z, 0)\n\n?")
    assert "error[1,1] = 4.75 - 1 = ?" in rest, "no question comes"
    shaped = "```nnrepl\ngoto forward\n```\n```question\nWhich shape?\nanswer: z.shape\n```\n"
    assert "(2, 2)" not in played(lesson_of(tmp_path, shaped), [""])


def test_check_remarks_a_number_that_may_have_been_seen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lesson = lesson_of(tmp_path, ASK.replace("goto forward", "goto backward\np z"))
    assert main(["learn", "--check", str(lesson.path)]) == 0
    assert "lesson.md:9: z[0, 1] is computed before it is asked for" in capsys.readouterr().out
    assert not check(lesson_of(tmp_path, ASK)).remarks


def test_kinds_of_answers(tmp_path: Path) -> None:
    text = """```nnrepl
goto forward
```
```question
Which shape?
answer: z.shape
```
```question
Which get a gradient?
answer: {name for name, g in {"weight": grad(weight), "bias": grad(bias)}.items() if mx.any(g != 0).item()}
```
```question
Is it positive?
answer: bool((z > 0).all().item())
```
```question
Which one?
option: the first is {{z[0, 0]}} :: z[0, 0] > 100
option: the second :: z[0, 0] < 100
```
"""
    lines = ["", "2", "2 3", "2x2", "weight", "weight, bogus", "bias and weight", "maybe", "n", "3", "b)"]
    screen = played(lesson_of(tmp_path, text), lines)
    assert screen.count("✓ Right") == 4
    assert "1 missing" in screen
    assert "bogus is none of" in screen
    assert "there are 1 to 2 to choose from" in screen
    assert "? Which one?\n   1. the first is 1.5\n   2. the second\n" in screen


def test_steps_can_be_asked_about(tmp_path: Path) -> None:
    text = """```nnrepl
continue
```
```question
Is it lower?
answer: history(loss)[-1] < history(loss)[0]
```
```question
How many steps?
answer: len(history(loss))
```
```question
Where are we?
answer: step_number
```
```question
The first loss?
answer: history(loss)[0]
```
"""
    lesson = lesson_of(tmp_path, text)
    assert not check(lesson).problems
    plain: dict[str, Any] = {}
    exec(PROGRAM.replace("range(3)", "range(1)"), plain)
    screen = played(lesson, ["", "yes", "3", "3", f"{plain['loss'].item():.2f}"])
    assert screen.count("✓ Right") == 4


def test_a_task_is_done_by_whatever_brings_it_about(tmp_path: Path) -> None:
    text = """```nnrepl
goto forward
```
```task
Make it larger.
until: bias[1] >= 4
solution: bias[1] = 4.0
hint: An assignment.
after: It is {{bias[1]}}.
```
"""
    lesson = lesson_of(tmp_path, text)
    screen = played(lesson, ["", "hint", "p bias", "step 3", "bias = bias + 7"])
    assert "An assignment." in screen
    assert "It is 6.75." in screen
    assert not check(lesson).problems


# -- checking --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("```nnrepl\ngoto nowhere\n```\n", "nowhere"),
        ("```nnrepl\ngoto forward\n```\n```question\nWhat?\nanswer: qqq[0]\n```\n", "qqq"),
        ("```nnrepl\ngoto forward\n```\n```question\nWhat?\nanswer: model\n```\n", "no answer that one can type"),
        (ASK.replace("after:", "wrong: z[0, 1] :: Never.\nafter:"), "gives the right answer"),
        (
            "```nnrepl\ngoto forward\n```\n```question\nWhat?\noption: a :: True\noption: b :: True\n```\n",
            "exactly one",
        ),
        ("```nnrepl\ngoto forward\n```\n```task\nDo.\nuntil: True\nsolution: s\n```\n", "done before it begins"),
        (
            "```nnrepl\ngoto forward\n```\n```task\nDo.\nuntil: x[0, 0] > 9\nsolution: s\n```\n",
            "not bring about x[0, 0] > 9",
        ),
        ("```nnrepl\ngoto z\n```\n```task\nDo.\nuntil: loss < 9\nsolution: s\n```\n", "loss < 9: loss is not made yet"),
        ("Now {{qqq}}.\n", "qqq"),
    ],
)
def test_check_finds_what_no_longer_holds(tmp_path: Path, text: str, said: str) -> None:
    problems = check(lesson_of(tmp_path, text)).problems
    assert problems
    assert said in problems[0]
    assert problems[0].startswith("lesson.md:")


@pytest.mark.parametrize("program", ["raise ValueError('no')\n", "x = 1\n", "import mlx.core as mx\nx = (\n"])
def test_a_program_that_fails_is_said(tmp_path: Path, program: str) -> None:
    problems = check(lesson_of(tmp_path, ASK, program)).problems
    assert problems
    assert "Traceback" not in problems[0]
    assert "ValueError" not in program or problems[0].endswith("failed: ValueError: no")


def test_a_question_may_have_nan_for_an_answer(tmp_path: Path) -> None:
    asked = "```nnrepl\ngoto forward\n```\n```question\nWhat?\nanswer: mx.log(mx.array(-1.0))\n```\n"
    lesson = lesson_of(tmp_path, asked)
    assert not check(lesson).problems
    screen = played(lesson, ["", "0", "inf", "NaN"])
    assert screen.count("✗ ") == 2
    assert "✓ Right" in screen


def test_a_name_that_lies_ahead_is_the_programs_and_not_a_librarys(tmp_path: Path) -> None:
    program = PROGRAM.replace("error = model(x) - y", "scores = model(x)")
    program = program.replace(
        "return mx.mean(mx.square(error))", "return nn.losses.cross_entropy(scores, y, reduction='mean')"
    )
    lesson = lesson_of(
        tmp_path, "```nnrepl\ngoto z\n```\nIt is {{loss}}.\n\n```question\nWhat?\nanswer: loss\n```\n", program
    )
    plain: dict[str, Any] = {}
    exec(program.replace("range(3)", "range(1)"), plain)
    screen = played(lesson, ["", "show"])
    assert f"It is {plain['loss'].item():.4f}" in screen


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Hello", "begins with front matter"),
        ("---\ntitle: x\n", "has no end"),
        ("---\ntitle: x\n---\nHello", "names no program"),
        ("---\ntitle: x\nprogram: a.py\nminutes: many\n---\nHello", "whole number"),
        ("---\nprogram: a.py\ncolour: red\n---\nHello", "no line of front matter"),
        ("---\nprogram: a.py\n---\n", "nothing after"),
        ("---\nprogram: a.py\n---\n```question\nWhat?\n```\n", "an answer: or several option:"),
        ("---\nprogram: a.py\n---\n```question\nanswer: 1\n```\n", "asks nothing"),
        ("---\nprogram: a.py\n---\n```question\nHow?\nanswr: 1\n```\n", "6: answr: is no line .*did you mean answer:"),
        ("---\nprogram: a.py\n---\n```task\nDo.\nsolutions: s\n```\n", "did you mean solution:"),
        ("---\nprogram: a.py\n---\n```question\nWhat?\noption: a : b\n```\n", "two sides"),
        ("---\nprogram: a.py\n---\n```nnrepl\nstep\n", "has no end"),
        ("---\nprogram: a.py\n---\n```nnrepl\n```\n", "no command"),
        ("---\nprogram: a.py\n---\n```task\nDo.\n```\n", "one until:"),
    ],
)
def test_a_broken_file_is_one_line_with_its_place(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(LessonError, match=said) as raised:
        parse(text, tmp_path / "broken.md")
    assert "broken.md" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_what_is_no_part_of_a_lesson_is_prose(tmp_path: Path) -> None:
    head = "---\r\nprogram: a.py\r\n---\r\n"
    text = (
        "See:\r\n\r\n```python title='x'\r\n---\r\nanswer: 3\r\n```\r\n"
        "Then\r\n---\r\n\r\n---\r\n\r\n```{note}\r\nHi\r\n```\r\n"
    )
    path = tmp_path / "a.md"
    path.write_bytes(b"\xef\xbb\xbf" + (head + text).encode())
    lesson = read(path)
    assert [type(part).__name__ for part in lesson.parts] == ["Prose", "Pause", "Prose"]
    first = lesson.parts[0]
    assert isinstance(first, Prose)
    assert "answer: 3" in first.text
    assert (lesson.title, lesson.program, lesson.arguments, lesson.minutes) == ("a", tmp_path / "a.py", [], 5)
    lines = ["title: A", "program: b/c.py", "arguments: --steps 3", "minutes: 12"]
    path.write_text("\n".join(["---", *lines, "---", "Hi"]))
    lesson = read(path)
    assert (lesson.title, lesson.program, lesson.minutes) == ("A", tmp_path / "b" / "c.py", 12)
    assert lesson.arguments == ["--steps", "3"]


def test_a_lesson_that_is_not_there_is_said(tmp_path: Path) -> None:
    for word in ("99", "0", "forwards", "nowhere.md", str(tmp_path)):
        with pytest.raises(LessonError):
            find(word)
    assert find("forward").number == 1


# -- for a room, and for paper ---------------------------------------------------------------------------------------

PARTS = """First.

```formula
a = b
```

Second.

```nnrepl
goto forward
```

Third, {{x[0, 1]}}.

```notes
Only for a teacher.
```

```question
What is z?
answer: z[0, 1]
```

Last.
"""


def test_a_lesson_is_shown_part_by_part(tmp_path: Path) -> None:
    lesson = lesson_of(tmp_path, PARTS)
    at_once = played(lesson, [""])
    assert "Third, 2." in at_once
    assert "Only for a teacher" not in at_once
    for lines, seen, unseen in (
        ([], "a = b", "Third"),
        ([""], "step 1 · forward", "Third"),
        (["", ""], "What is z?", "Last."),
        (["", "", ""], "hint, show, skip", "2.75"),
        (["", "", "show"], "It is 2.75.", "Last."),
        (["", "", "show", ""], "Last.", "Traceback"),
    ):
        screen = played(lesson, lines, present=True)
        assert seen in screen
        assert unseen not in screen
    assert played(lesson, ["", ""], present=True).count("───") > at_once.count("───"), "formulas are large"


def test_a_lesson_is_written_with_what_it_shows(tmp_path: Path) -> None:
    lesson = lesson_of(tmp_path, PARTS + "```task\nDo.\nuntil: bias[0] > 8\nsolution: bias[0] = 9\n```\n")
    for form in ("html", "ipynb", "cast"):
        target = tmp_path / f"lesson.{form}"
        publish(lesson, form, target, False)
        text = target.read_text(encoding="utf-8")
        for said in ("Third, 2.", "2.75", "goto forward", "bias[0] = 9"):
            assert said in text, f"{form}: {said}"
        assert "Only for a teacher" not in text
        with pytest.raises(UserError, match="-f writes over it"):
            publish(lesson, form, target, False)
        publish(lesson, form, target, True)
        if form == "ipynb":
            nbformat.validate(nbformat.reads(text, 4))
        if form == "cast":
            head, *events = map(json.loads, text.splitlines())
            assert head["version"] == 2
            assert [at for at, _, _ in events] == sorted(at for at, _, _ in events)
    with pytest.raises(UserError, match="nowhere"):
        publish(lesson_of(tmp_path, "```nnrepl\ngoto nowhere\n```\n"), "html", tmp_path / "x.html", False)
    with pytest.raises(UserError, match="cannot write"):
        publish(lesson, "html", tmp_path / "no" / "folder" / "x.html", False)


@pytest.mark.parametrize("number", [1, 3, 4, 11])
def test_the_cells_of_an_exported_lesson_ask_nnrepl(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    lesson = lessons()[number - 1]
    cells = [cell for cell in json.loads(notebook(lesson, published(lesson)))["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] for cell in cells[4:] if "goto" in cell["source"][0])
    monkeypatch.setattr(api, "_last", [])
    made = Notebook(monkeypatch)
    nnrepl.load_ipython_extension(made)
    for cell in cells[1:]:
        given = made.run("".join(cell["source"]))
        assert not isinstance(given, BaseException), (cell["source"], given)


def test_what_is_changed_in_a_lesson_is_text_in_its_notebook(tmp_path: Path) -> None:
    text = ASK + "```nnrepl\nbias[1] = 3\np z\ntimelines\ntimeline 1\np x\n```\n"
    lesson = lesson_of(tmp_path, text)
    cells = json.loads(notebook(lesson, published(lesson)))["cells"]
    told = {
        kind: "".join("".join(it["source"]) for it in cells if it["cell_type"] == kind) for kind in ("code", "markdown")
    }
    assert "%nnrepl p x" in told["code"]
    assert "bias[1] = 3" not in told["code"]
    for line in ("bias[1] = 3", "p z", "timelines", "timeline 1"):
        assert f"(nnrepl) {line}\n" in told["markdown"]


# -- the command line ------------------------------------------------------------------------------------------------


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = lesson_of(tmp_path, PARTS).path
    assert main(["learn"]) == 0
    assert "Forward: a neuron" in capsys.readouterr().out
    assert main(["learn", "--check", str(path)]) == 0
    assert "✓ all hold" in capsys.readouterr().out
    assert main(["learn", "--notes", str(path)]) == 0
    assert "Only for a teacher." in capsys.readouterr().out
    path.write_text(path.read_text().replace("z[0, 1]", "zz[0, 1]"))
    assert main(["learn", "--check", str(path)]) == 1
    assert "zz" in capsys.readouterr().out
    for wrong in (["99"], ["nowhere.md"], ["--check"], ["--check", str(tmp_path / "net.py")]):
        assert main(["learn", *wrong]) == 2, wrong
        assert capsys.readouterr().err.count("\n") == 1


def test_progress_is_kept_and_a_damaged_file_is_none(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "lessons.json"
    assert load_progress(file) == {}
    assert keep_progress("lesson 1", Reached(3, 9), file) == ""
    assert keep_progress("lesson 2", Reached(0, 5, True), file) == ""
    assert load_progress(file) == {"lesson 1": Reached(3, 9), "lesson 2": Reached(0, 5, True)}
    for damaged in ("", "[]", "{", '{"a": 3}', '{"a": {"part": "x"}}'):
        file.write_text(damaged)
        assert load_progress(file) == {}
    assert "cannot write" in keep_progress("lesson 1", Reached(), tmp_path / "deep" / "lessons.json" / "under")


@pytest.mark.parametrize("whose", ["own", "shipped", "shipped, changed", "a lesson's", "no ops"])
def test_a_lesson_asks_before_a_tape_is_lost_that_somebody_may_miss(
    whose: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = OpenSession(nnrepl.trace(lambda x: x if whose == "no ops" else x * 2, mx.ones(2)))
    if whose == "shipped, changed":
        session.run("goto start")
        session.run("x = x * 3")
    asked: list[str] = []
    monkeypatch.setattr(session.hooks, "confirm", lambda question, otherwise=False: bool(asked.append(question)))
    monkeypatch.setattr(session, "files", object())
    program = shipped()[0].parent / "own.py" if whose.startswith("shipped") else Path("own.py").absolute()
    monkeypatch.setattr(session, "debuggee", SimpleNamespace(namespace={"__file__": str(program)}))
    it, lesson = session.interpreter, lessons()[0]
    if whose == "a lesson's":
        it.player = learning.player_of(lesson, anew=True)
    if whose in ("own", "shipped, changed"):
        assert "nothing has changed" in str(learning.begin(it, lesson, anew=True))
        assert len(asked) == 1
        assert it.player is None
        assert "ops are lost" in asked[0]
    else:
        with pytest.raises(Load):
            learning.begin(it, lesson, anew=True)
        assert not asked
        assert it.player is not None
