"""Whatever is wrong, in the command line, in the program or at the prompt: one clear line, the right exit status."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from nnrepl.commands import load_all
from nnrepl.commands.table import TABLE
from tests.support import PROMPT, ROOT, nnrepl_cli

NET = """
import mlx.core as mx
import mlx.nn as nn
mx.random.seed(0)
model = nn.Linear(2, 1)
def loss_fn(x):
    z = model(x)
    return z.sum()
loss, grads = nn.value_and_grad(model, loss_fn)(mx.ones((1, 2)))
print("loss", loss.item())
"""

OWN = re.compile(r"Traceback|nnrepl/|<locals>|<lambda>|Expressions\.|__value_")
"""What only nnrepl's own insides look like."""


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A program of three forward ops."""
    path = tmp_path_factory.mktemp("net") / "net.py"
    path.write_text(NET)
    return str(path)


def shell(program: str, *lines: str, **kwargs: object) -> subprocess.CompletedProcess[str]:
    """A session on a pipe, wide enough that no message needs a second line."""
    env = {"COLUMNS": "400", **kwargs.pop("env", {})}  # type: ignore[dict-item]
    return nnrepl_cli(program, stdin="\n".join(lines) + "\n", env=env, **kwargs)  # type: ignore[arg-type]


def answers(screen: str) -> list[list[str]]:
    """The lines that each typed line was answered with."""
    return [part.splitlines()[1:] for part in PROMPT.split(screen)[1:]]


# -- the command line ----------------------------------------------------------------------------------------


def refused(*arguments: str, cwd: Path | None = None, status: int = 2) -> str:
    """The one line with which nnrepl refuses to begin; argparse puts its usage before it. As under plain Python,
    the status is 2 where the command line is wrong, and 1 where the program is."""
    result = nnrepl_cli(*arguments, stdin="", cwd=cwd)
    message = [line for line in result.stderr.splitlines() if not line.startswith(("usage:", "    "))]
    assert result.stdout == ""
    assert len(message) == 1, result.stderr
    assert not OWN.search(message[0])
    assert message[0].startswith("nnrepl: ")
    assert result.returncode == status
    return message[0]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("missing.py", None, "no file missing.py"),
        ("missing/train.py", None, "no file missing/train.py"),
        ("net.py/train.py", None, "net.py/train.py"),
        ("", None, "empty"),
        ("unclosed.py", b"print(1\n", "unclosed.py, line 1: '(' was never closed"),
        ("indented.py", b"x = 1\n  y = 2\n", "indented.py, line 2: unexpected indent"),
        ("return.py", b"x = 1\nreturn x\n", "return.py, line 2: 'return' outside function"),
        ("binary.py", bytes(range(256)), "binary.py"),
        ("latin.py", b"x = 1\ny = '\xe9\xff'\n", "latin.py"),
        ("coding.py", b"# coding: nosuch\n", "unknown encoding: nosuch"),
        ("wide.py", "x = 1".encode("utf-16"), "wide.py"),
    ],
)
def test_program_that_cannot_be_loaded(tmp_path: Path, name: str, content: bytes | None, said: str) -> None:
    (tmp_path / "net.py").touch()
    if content is not None:
        (tmp_path / name).write_bytes(content)
    assert said in refused(name, cwd=tmp_path, status=2 if content is None else 1)


def test_directory(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    assert "models is a directory" in refused("models", cwd=tmp_path)


def test_directory_with_a_program_in_it(tmp_path: Path) -> None:
    """Plain Python runs it."""
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "__main__.py").write_text("import sys\nprint('ran', sys.argv)\n")
    result = nnrepl_cli("app", "a", stdin="", cwd=tmp_path)
    assert "ran ['app', 'a']" in result.stdout + result.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--nosuch",), "--nosuch"),
        (("--nosuch", "net.py"), "--nosuch"),
        (("-x",), "-x"),
        (("-c",), "-c"),
        (("-m",), "-m"),
        (("-m", "nosuch"), "nosuch"),
        (("-m", "package"), "package"),
        (("-m", "broken"), "never closed"),
        (("-m", "os.path.nosuch"), "os.path.nosuch"),
        (("-m", ".."), "module"),
        (("-x", "nosuch", "net.py"), "nosuch"),
        (("-x", "package", "net.py"), "package"),
        (("-x", "binary", "net.py"), "binary"),
        (("--theme", "pink", "net.py"), "pink"),
    ],
    ids=str,
)
def test_wrong_usage(tmp_path: Path, arguments: tuple[str, ...], said: str) -> None:
    (tmp_path / "net.py").write_text("print('must not run')\n")
    (tmp_path / "broken.py").write_text("print(1\n")
    (tmp_path / "package").mkdir()
    (tmp_path / "binary").write_bytes(b"p 1\n\xff\xfe\n")
    message = refused(*arguments, cwd=tmp_path)
    assert said in message
    assert "Errno" not in message


def test_help_and_version() -> None:
    for option, said in (("--help", "usage: nnrepl"), ("--version", "nnrepl ")):
        result = nnrepl_cli(option)
        assert result.stdout.startswith(said)
        assert (result.returncode, result.stderr) == (0, "")


# -- programs ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["", "# nothing\n", "print('hello')\n"], ids=["empty", "comment", "no mlx"])
def test_program_that_never_uses_mlx(tmp_path: Path, text: str) -> None:
    """It is said that there is nothing to step through, and what to type; every command still answers."""
    (tmp_path / "prog.py").write_text(text)
    commands = ["step", "back", "list", "where", "verify", "goto #1", "goto forward", "print x", "ll", "rewind"]
    result = shell("prog.py", *commands, "continue", cwd=tmp_path)
    shown = PROMPT.split(result.stdout)[0].splitlines()
    assert shown[0].startswith("nnrepl ")  # at once, before what the program prints
    assert [line for line in shown if line == "hello"] == ["hello"] * text.count("hello")
    said = [line for line in shown[1:] if line and line != "hello"]
    assert "nothing to step through" in said[0]
    assert "Type Python" in said[1]
    assert [len(lines) for lines in answers(result.stdout)] == [1] * (len(commands) + 1)
    assert result.stderr == ""


def test_program_without_a_forward_pass(tmp_path: Path) -> None:
    """It stops at its first op."""
    (tmp_path / "prog.py").write_text("import mlx.core as mx\nx = mx.ones(2)\ny = x + 1\nprint(y)\n")
    result = shell("prog.py", "step", "print x", "continue", cwd=tmp_path)
    assert "#1  x = ones(2)" in PROMPT.split(result.stdout)[0]
    assert answers(result.stdout)[1] == ["x = [1 1]"]
    assert (result.returncode, result.stderr) == (0, "")


def test_error_in_a_module_that_the_program_imports(tmp_path: Path) -> None:
    (tmp_path / "prog.py").write_text("print('first')\nimport broken\n")
    (tmp_path / "broken.py").write_text("print(1\n")
    result = shell("prog.py", "continue", cwd=tmp_path)
    assert result.returncode == 1
    assert not OWN.search(result.stderr.partition("\n")[2])
    assert "broken.py" in result.stderr
    assert "SyntaxError" in result.stdout


# -- the prompt ----------------------------------------------------------------------------------------------

LINES = [
    # unknown words
    ("frobnicate", "frobnicate"),
    ("frobnicate the net", "frobnicate"),
    ("stpe", "step"),
    ("contineu", "continue"),
    ("ptint z", "print"),
    ("hepl", "help"),
    ("quti", "quit"),
    # unfinished and impossible expressions
    ("print z1 +", "parse"),
    ("print (", "never closed"),
    ("print 'abc", "unterminated"),
    ("1 +", "parse"),
    ("x =", "parse"),
    ("= 3", "parse"),
    ("}", "parse"),
    ("!(", "never closed"),
    ("for i in range(3):", "block"),
    ("def f():", "block"),
    ("$x", "parse"),
    ("%magic", "parse"),
    ("🎉", "🎉"),
    ("∂L/∂", "∂"),
    # names and numbers that are not there
    ("nosuch", "nosuch"),
    ("print nosuch", "nosuch"),
    ("print nosuch@1", "nosuch"),
    ("print é", "é"),
    ("print z.nosuch", "z"),
    ("print model.nosuch", "nosuch"),
    ("print grad(nosuch)", "nosuch"),
    ("print ∂L/∂nosuch", "nosuch"),
    ("grad nosuch", "nosuch"),
    ("what nosuch", "nosuch"),
    ("print #99", "#99"),
    ("print #0", "#0"),
    ("print setup#99", "setup#99"),
    ("print #x", "parse"),
    ("print z@99", "#99"),
    ("goto #0", "#1"),
    ("goto nosuch", "nosuch"),
    ("goto net.py:", "net.py:"),
    ("list nosuch", "nosuch"),
    ("list #99", "#99"),
    ("until nosuch", "nosuch"),
    ("help nosuch", "nosuch"),
    ("undisplay 7", "7"),
    ("display nosuch", "nosuch"),
    ("display z +", "parse"),
    ("del nosuch", "nosuch"),
    # what Python or MLX refuses
    ("print 1 / 0", "ZeroDivisionError"),
    ("print open('nosuch')", "nosuch"),
    ("import nosuch", "nosuch"),
    ("raise ValueError('mine')", "mine"),
    ("assert False, 'mine'", "mine"),
    ("print mx.ones(2) + mx.ones(3)", "broadcast"),
    ("print mx.ones(2) @ 3", "int"),
    ("print mx.zeros((2, 2)).item()", "convert"),
    ("print grad()", "grad"),
    ("print grad(3)", "grad"),
    # commands without what they need, or with what they cannot take
    ("print", "EXPR"),
    ("p", "EXPR"),
    ("what", "EXPR"),
    ("goto", "PLACE"),
    ("grad", "EXPR"),
    ("step x", "step [n]"),
    ("step -1", "step [n]"),
    ("step 1.5", "step [n]"),
    ("step 3 4", "step [n]"),
    ("goto -5", "a place is #12"),
    ("list -1", "a place is #12"),
    ("until x * y", "is an expression, and no place"),
    ("where now", "where"),
]

NEVER_REACHED = ["goto #99", "until matmul"]
CANNOT_BE = [("goto other.py:3", "other.py"), ("until net.py:9999", "9999")]


@pytest.fixture(scope="module")
def said(net: str) -> dict[str, list[str]]:
    """One session in which all of the lines are typed: what each was answered with."""
    lines = [line for line, _ in LINES]
    result = shell(net, *lines)
    assert (result.stderr, result.returncode) == ("", 1)
    found = answers(result.stdout)
    assert len(found) == len(lines)
    return dict(zip(lines, found))


@pytest.mark.parametrize(("line", "about"), LINES, ids=[line for line, _ in LINES])
def test_bad_line(said: dict[str, list[str]], line: str, about: str) -> None:
    """One line, about what is wrong and not about nnrepl."""
    assert len(said[line]) == 1
    assert about in said[line][0]
    assert not OWN.search(said[line][0])
    assert "is valid Python and was read so; to show it, type just" not in said[line][0]


@pytest.mark.parametrize("line", NEVER_REACHED)
def test_place_that_is_never_reached(net: str, line: str) -> None:
    """While the program runs it may come; when the program has ended it has not, and that is said."""
    result = shell(net, line, line)
    first, second = answers(result.stdout)
    place = line.partition(" ")[2]
    assert first[0].startswith("loss -0.48")
    assert place in first[-1]
    assert len(second) == 1
    assert place in second[0]
    assert (result.stderr, result.returncode) == ("", 1)


@pytest.mark.parametrize(("line", "about"), CANNOT_BE)
def test_place_that_cannot_be_is_refused_at_once(net: str, line: str, about: str) -> None:
    """What nothing in the source can be does not run the program to its end."""
    result = shell(net, line, line)
    first, second = answers(result.stdout)
    assert first[-1:] == second[:1]
    assert about in first[-1]
    assert "loss -0.48" not in "".join([*first, *second[:1]])
    assert (result.stderr, result.returncode) == ("", 1)


load_all()


@pytest.fixture(scope="module")
def nonsense(net: str) -> dict[str, list[str]]:
    """Every command there is, with an argument that none of them can mean."""
    names = [command.names[0] for command in TABLE.commands]
    result = shell(net, *(f"{name} $${name}" for name in names))
    assert result.stderr == ""
    found = answers(result.stdout)
    assert len(found) == len(names)
    return dict(zip(names, found))


@pytest.mark.parametrize("name", [command.names[0] for command in TABLE.commands])
def test_wrong_argument_of_every_command(nonsense: dict[str, list[str]], name: str) -> None:
    assert len(nonsense[name]) == 1
    assert "$$" in nonsense[name][0] or "parse" in nonsense[name][0]
    assert not OWN.search(nonsense[name][0])


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        (("print 1",), 0),
        (("print z",), 0),  # it lies ahead: an answer, not a failure
        (("what z",), 0),
        (("print grad(z)",), 0),
        (("print nosuch", "print 1"), 1),
        (("nosuch", "continue"), 1),
        (("",), 0),
        (("", "  ", "\t", "# a comment"), 0),
    ],
    ids=str,
)
def test_exit_status_on_a_pipe(net: str, lines: tuple[str, ...], status: int) -> None:
    assert shell(net, *lines).returncode == status


def test_exit_status_of_the_program_wins(tmp_path: Path) -> None:
    (tmp_path / "prog.py").write_text(NET + "raise SystemExit(3)\n")
    assert shell("prog.py", "print nosuch", "continue", cwd=tmp_path).returncode == 3
    missed = nnrepl_cli("--batch", "-c", "print nosuch", "-c", "until step 99", "prog.py", cwd=tmp_path)
    assert missed.returncode == 3
    assert "step 99" in missed.stdout, "what was waited for and never came is said in a batch, too"


def test_an_exception_that_does_not_say_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "prog.py").write_text(NET + "class Odd(Exception):\n    __str__ = None\nraise Odd\n")
    result = shell("prog.py", "continue", "print 40 + 2", cwd=tmp_path)
    assert "Odd: (its message cannot be read)" in result.stdout
    assert "\n42\n" in result.stdout


def test_script_of_commands(tmp_path: Path, net: str) -> None:
    """A line that fails does not keep the next ones from running; a shebang and comments are no commands."""
    (tmp_path / "commands").write_text("#!/usr/bin/env -S nnrepl -x\n\n# comment\nprint 1\nnosuch\nprint 2")
    result = nnrepl_cli("--batch", "-x", str(tmp_path / "commands"), "-c", "print 3", net)
    assert [line for line in result.stdout.splitlines() if line in "123"] == ["1", "2", "3"]
    assert (result.returncode, result.stderr) == (1, "")


@pytest.mark.parametrize(
    "typed",
    [
        ("raise SystemExit(3)", "raise GeneratorExit", "raise KeyboardInterrupt", "print 9 ** 99999",
         "print type('A', (), {'__repr__': lambda self: 1/0})()", "print '\\ud800'"),
        ("print " + "-" * 20_000 + "1", "print " + "(" * 3_000 + ")" * 3_000, "print " + "+".join("1" * 5_000),
         "x" * 200_000),
        ("step " + "9" * 5_000, "goto #" + "9" * 5_000, "print #" + "9" * 5_000),
        ("\x1b[A", "print\x00 1", "\x7f\x01\x02", "import os; os.chdir('/')"),
        ("import sys; sys.setrecursionlimit(60)",),
    ],
    ids=["raised", "long", "large", "keys", "recursion"],
)  # fmt: skip
def test_the_user_is_never_thrown_out(net: str, typed: tuple[str, ...]) -> None:
    """After whatever was typed, the prompt is there, and the program goes on as if nothing had happened."""
    numbers = [f"print {1000 + at} + 1" for at in range(len(typed))]
    result = shell(net, *(line for pair in zip(typed, numbers) for line in pair), "continue")
    assert all(f"\n{1001 + at}\n" in result.stdout for at in range(len(typed)))
    assert "\nloss -0.48" in result.stdout
    assert result.stderr == ""
    assert not OWN.search(result.stdout)


def test_a_line_that_breaks_the_program_can_be_taken_back(net: str) -> None:
    """It is the program with that line in it, and fails as that would."""
    result = shell(net, "del mx, model", "continue", "undo", "continue")
    assert "name 'mx' is not defined" in result.stdout or "name 'model' is not defined" in result.stdout
    assert "\nloss -0.48" in result.stdout.partition("undo")[2]
    assert not OWN.search(result.stdout)


@pytest.mark.parametrize("line", ["z = z * 2", "z[0] = 2"])
def test_a_change_where_nothing_can_take_it(net: str, line: str) -> None:
    """The call of the variable has returned, and nothing comes any more: it is said where it can be changed."""
    result = shell(net, "continue", line, "timelines")
    assert re.search(
        r"z was a variable of a call that has returned, .*: goto #\d+ leads to where it is made", result.stdout
    )
    assert "running the program again" not in result.stdout
    assert "▶ 1  as it is" in result.stdout
    assert "  2  " not in result.stdout


@pytest.mark.parametrize("encoding", ["utf-8:strict", "utf-8:surrogateescape"])
def test_input_that_is_not_utf8(net: str, encoding: str) -> None:
    """As standard input is in most places, and as it is where no language is set."""
    typed = b"print '\xff\xfe'\nprint 1000 + 1\ncontinue\n"
    result = subprocess.run(
        [sys.executable, "-m", "nnrepl", net], input=typed, capture_output=True, cwd=ROOT, timeout=60,
        env={**os.environ, "PYTHONIOENCODING": encoding},
    )  # fmt: skip
    assert b"this line is not text in UTF-8\n" in result.stdout
    assert b"\n1001\n" in result.stdout
    assert b"\nloss -0.48" in result.stdout
    assert result.stderr == b""


def test_end_of_input_in_the_middle(net: str) -> None:
    """The last line needs no line end, and the end of input ends session and program."""
    result = nnrepl_cli(net, stdin="step\nprint 1000 + 1")
    assert result.stdout.endswith("1001\n")
    assert (result.returncode, result.stderr) == (0, "")


def test_lines_end_as_on_windows(net: str) -> None:
    result = nnrepl_cli(net, stdin="step\r\nprint 1000 + 1\r\n\r\ncontinue\r\n")
    assert "\n1001\n" in result.stdout
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.parametrize(
    "env",
    [{"COLUMNS": "wide"}, {"COLUMNS": "-5"}, {"COLUMNS": "0"}, {"COLUMNS": "20"}, {"PYTHONIOENCODING": "ascii"},
     {"TERM": "dumb"}, {"TERM": ""}, {"HOME": "/nowhere"}, {"NO_COLOR": "1", "FORCE_COLOR": "1"}],
    ids=str,
)  # fmt: skip
def test_strange_surroundings(net: str, env: dict[str, str]) -> None:
    result = shell(net, "step", "list", "print 1000 + 1", "continue", env=env)
    assert "\n1001\n" in result.stdout
    assert "\x1b" not in result.stdout
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.parametrize("redirection", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams(net: str, redirection: str) -> None:
    """As for any program: what cannot be read is empty, what cannot be written is lost."""
    command = f"{sys.executable} -m nnrepl --batch -c continue {net} {redirection}"
    result = subprocess.run(command, shell=True, capture_output=True, text=True, cwd=ROOT, timeout=60, input="")
    assert result.stdout.count("loss") == int(">&- " not in f"{redirection.replace('2>&-', '')} ")
    assert (result.returncode, result.stderr) == (0, "")


def test_reader_that_goes_away(net: str) -> None:
    """`nnrepl ... | head -1` ends quietly."""
    lines = "list\\nhelp\\n" * 50
    command = f"printf '{lines}' | {sys.executable} -m nnrepl {net} | head -1"
    result = subprocess.run(command, shell=True, capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert result.stdout.count("\n") == 1
    assert result.stderr == ""
