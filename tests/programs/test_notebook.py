"""Notebooks: the code cells run as one program, cells are places, and what needs IPython is skipped with a note."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from nnrepl.programs.loading import program_of
from nnrepl.programs.notebook import READERS, read_notebook
from nnrepl.programs.script import CannotLoad, load_script
from tests.support import PROMPT, nnrepl_cli

nbformat = pytest.importorskip("nbformat")

LESSON = (
    "## A lesson",
    "import mlx.core as mx\nimport mlx.nn as nn\n\nmx.random.seed(0)",
    "model = nn.Linear(2, 1)\n\ndef loss_fn(x):\n    z = model(x)\n    print('in loss')\n    return z.sum()",
    "## Now the gradient",
    "loss, grads = nn.value_and_grad(model, loss_fn)(mx.ones((1, 2)))\nprint('loss', loss.item())\nloss",
)
"""Cells; what begins with `## ` is Markdown."""

FORWARD = "import mlx.core as mx, mlx.nn as nn\nnn.Linear(1, 1)(mx.ones(1))"
"""A cell with a forward pass, so that the program has stopped and `continue` has been given."""


def notebook(path: Path, *cells: str) -> Path:
    """Write a notebook."""
    new = nbformat.v4
    document = new.new_notebook()
    document.cells = [
        new.new_markdown_cell(cell) if cell.startswith("## ") else new.new_code_cell(cell) for cell in cells
    ]
    nbformat.write(document, path)
    return path


def run(directory: Path, *cells: str, commands: tuple[str, ...] = ("continue",)) -> CompletedProcess[str]:
    """What `--batch` shows of a notebook after some commands."""
    notebook(directory / "lesson.ipynb", *cells)
    given = [word for command in commands for word in ("-c", command)]
    return nnrepl_cli("--batch", *given, "lesson.ipynb", "an", "argument", cwd=directory)


def notes(directory: Path, *cells: str) -> list[str]:
    """What was noted about a notebook as it was read."""
    return read_notebook(str(notebook(directory / "lesson.ipynb", *cells))).notes


# -- as a program --------------------------------------------------------------------------------------------


def test_cells_are_one_program(tmp_path: Path) -> None:
    result = run(tmp_path, *LESSON)
    assert re.fullmatch(r"in loss\nloss -0\.48\d*\n", result.stdout)
    assert (result.returncode, result.stderr) == (0, "")


def test_what_a_cell_sees(tmp_path: Path) -> None:
    """One namespace, `__main__`, the notebook's directory in the path, source for `inspect`, classes to pickle."""
    (tmp_path / "helper.py").write_text("value = 5\n")
    result = run(
        tmp_path,
        FORWARD,
        "import inspect, os, pickle, sys\nimport helper, __main__",
        "from __future__ import annotations\ndef f(x: Unknown):\n    return x\nclass A:\n    pass",
        "print(helper.value, __name__, __main__.f is f, sys.argv[1:], os.path.basename(sys.argv[0]))",
        "print(inspect.getsource(f))\nprint(type(pickle.loads(pickle.dumps(A()))) is A)",
    )
    assert result.stderr == ""
    assert result.stdout.splitlines() == [
        "5 __main__ True ['an', 'argument'] lesson.ipynb",
        "def f(x: Unknown):",
        "    return x",
        "",
        "True",
    ]


@pytest.mark.parametrize(("last", "status"), [("import sys; sys.exit(4)", 4), ("raise ValueError('mine')", 1)])
def test_exit_status(tmp_path: Path, last: str, status: int) -> None:
    result = run(tmp_path, FORWARD, "print('one')", last, "print('never')")
    assert result.returncode == status
    assert result.stdout == "one\n"


@pytest.mark.parametrize("cells", [(), ("## only text",), ("",), ("\n\n",)], ids=["none", "text", "empty", "blank"])
def test_notebook_without_code(tmp_path: Path, cells: tuple[str, ...]) -> None:
    result = run(tmp_path, *cells)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


# -- cells as places -----------------------------------------------------------------------------------------


def test_places(tmp_path: Path) -> None:
    """Stops, listings and stacks name the notebook, the code cell and the line in it."""
    notebook(tmp_path / "lesson.ipynb", *LESSON)
    result = nnrepl_cli("lesson.ipynb", stdin="where\nops\nuntil sum\nlist\nwhat z\n", cwd=tmp_path)
    start, where, listing, stop, source, what = PROMPT.split(result.stdout)
    assert "lesson.ipynb" in start.splitlines()[0]
    assert "lesson.ipynb cell 3:1 in <module>" in where
    assert "lesson.ipynb cell 2:4 in loss_fn" in where
    assert re.search(r"#3 +sum .*lesson\.ipynb cell 2:6", listing)
    assert "cell 2:4 in loss_fn" in start
    assert re.search(r"▶ 6 +return z\.sum\(\)\n +━{7}", stop)
    assert "z = model(x)" in source
    assert "loss_fn(x)" in source
    assert "import mlx" not in source  # another cell
    assert "lesson.ipynb cell 2:4" in what or "linear.py" in what


@pytest.mark.parametrize("place", ["lesson.ipynb cell 2:6", "cell 2:6"])
def test_a_place_is_typed_as_it_is_shown(tmp_path: Path, place: str) -> None:
    result = run(tmp_path, *LESSON, commands=(f"until {place}",))
    assert "#3  loss = Σ z" in result.stdout
    assert result.returncode == 0


def test_names_and_targets(tmp_path: Path) -> None:
    result = run(tmp_path, *LESSON, commands=("print model.weight.shape", "until sum", "print z", "print grad(z)"))
    assert "(1, 2)" in result.stdout
    assert "z = [[-0.48" in result.stdout
    assert "∂L/∂z is not made yet" in result.stdout


# -- what needs IPython --------------------------------------------------------------------------------------


def test_magics_are_skipped_with_a_note(tmp_path: Path) -> None:
    cells = (
        "%matplotlib inline\n!pip install mlx\nimport mlx.core as mx",
        "%%time\nx = mx.ones(3)\nprint('timed')",
        "%%bash\necho hello (",
        "for i in range(2):\n    %time x + i\n    !ls \\\n        -l \\\n    -a\nprint('looped', i)",
        FORWARD,
    )
    found = notes(tmp_path, *cells)
    assert [re.sub(r"\D*(\d+).*", r"\1", note) for note in found] == ["1", "1", "2", "3", "4", "4"]
    for note, word in zip(found, ["%matplotlib", "!pip", "%%time", "%%bash", "%time", "!ls"]):
        assert word in note
        assert "\n" not in note
    result = run(tmp_path, *cells)
    assert result.stderr == ""
    assert result.stdout.splitlines()[:2] == ["timed", "looped 1"]


def test_notes_are_shown_before_the_first_stop(tmp_path: Path) -> None:
    notebook(tmp_path / "lesson.ipynb", "%matplotlib inline", *LESSON)
    result = nnrepl_cli("lesson.ipynb", stdin="", cwd=tmp_path)
    assert "%matplotlib" in result.stdout.split("step 1")[0]


def test_what_later_cells_define_is_a_place_before_they_have_run(tmp_path: Path) -> None:
    later = "def sample(m):\n    return m(mx.ones(1)) * 2\nprint(sample(nn.Linear(1, 1)).shape)\nlast_one = 1"
    result = run(tmp_path, FORWARD, later, commands=("p last_one", "break sample", "continue", "where"))
    assert "last_one is not bound yet\n" in result.stdout, "and what is meant is not asked"
    assert "breakpoint 1" in result.stdout
    assert "in sample" in result.stdout


IPYTHON_LINES = ["x?", "?x", "x??", "mx.ones?", "y = %timeit -o x + 1", "files = !ls -l *.py", "!!ls", "%cd /tmp; ls"]


@pytest.mark.parametrize("line", IPYTHON_LINES)
def test_other_ways_of_ipython(tmp_path: Path, line: str) -> None:
    """They are skipped with a note, whatever the line looks like."""
    cells = ("x = 1", f"{line}\nprint('end')")
    assert len(notes(tmp_path, *cells)) == 1
    load_script(str(tmp_path / "lesson.ipynb"), [])


@pytest.mark.parametrize("line", ["display(x)", "import asyncio\nawait asyncio.sleep(0)"])
def test_what_a_notebook_offers_beyond_python(tmp_path: Path, line: str) -> None:
    result = run(tmp_path, FORWARD, "x = 1", line, "print('end')")
    assert result.stderr == ""
    assert result.stdout.splitlines()[-1] == "end"


LOOKALIKES = {
    "text = '''\n%magic\n!shell\n'''\nprint(text)": "\n%magic\n!shell\n\n",
    "print(7\n% 4)": "3\n",
    "value = (17\n         % 10\n         % 4)\nprint(value)": "3\n",
    "x = 7 \\\n% 4\nprint(x)": "3\n",
    "# %magic\nprint('100%') # !x": "100%\n",
}


@pytest.mark.parametrize("cell", LOOKALIKES)
def test_what_only_looks_like_a_magic(tmp_path: Path, cell: str) -> None:
    assert notes(tmp_path, cell) == []
    assert read_notebook(str(tmp_path / "lesson.ipynb")).cells[0].text == f"{cell}\n"


def test_what_only_looks_like_a_magic_runs(tmp_path: Path) -> None:
    result = run(tmp_path, FORWARD, *LOOKALIKES)
    assert (result.stderr, result.stdout) == ("", "".join(LOOKALIKES.values()))


def test_lines_keep_their_numbers(tmp_path: Path) -> None:
    result = run(tmp_path, FORWARD, "%%time\n\n%matplotlib inline\n\ndef f():\n    !ls\n    1 / 0\nf()")
    assert re.findall(r"line (\d+), in (\S+)", result.stderr) == [("8", "<module>"), ("7", "f")]
    assert result.stderr.count("1 / 0") == 1


# -- what can be wrong ---------------------------------------------------------------------------------------


def test_error_in_a_cell(tmp_path: Path) -> None:
    """The traceback is Python's and names the cell; the failing op is a stop from which one can walk back."""
    cells = ("import mlx.core as mx", "def f(x):\n    return x + mx.ones(3)", "y = mx.ones(2)\nf(y)", "print('never')")
    notebook(tmp_path / "lesson.ipynb", *cells)
    result = nnrepl_cli("lesson.ipynb", stdin="where\nback\n", cwd=tmp_path)
    assert re.findall(r"lesson\.ipynb\D*(\d+)\D+, line (\d+)", result.stderr.replace('"', " ")) == [
        ("3", "2"),
        ("2", "2"),
    ]
    assert "nnrepl" not in result.stderr.replace(str(tmp_path), "")
    stop, where, back = PROMPT.split(result.stdout)
    assert "ValueError: [broadcast_shapes] Shapes (2) and (3) cannot be broadcast." in stop
    assert "lesson.ipynb cell 2:2 in f" in stop
    assert "lesson.ipynb cell 3:2 in <module>" in where
    assert "ones" in back
    assert "never" not in result.stdout
    assert result.returncode == 1


@pytest.mark.parametrize(
    "text",
    ["", "not json", '{"cells": [', "[]", "3", "{}", '{"a": 1}', b"\xff\xfe\x00", b"\x80\x04pickle",
     '{"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": [{"cell_type": "code"}]}'],
    ids=repr,
)  # fmt: skip
def test_file_that_is_no_notebook(tmp_path: Path, text: str | bytes) -> None:
    """One line that tells a person something: the class of an exception does not."""
    path = tmp_path / "lesson.ipynb"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(CannotLoad, match=r"lesson\.ipynb is not a notebook: ") as refusal:
        load_script(str(path), [])
    assert "\n" not in str(refusal.value)
    assert "Error" not in str(refusal.value)


def test_file_that_cannot_be_loaded(tmp_path: Path) -> None:
    (tmp_path / "folder.ipynb").mkdir()
    (tmp_path / "broken.ipynb").write_text("{")
    for name, said in (
        ("missing.ipynb", "no file missing.ipynb"),
        ("folder.ipynb", "folder.ipynb is a directory"),
        ("broken.ipynb", "broken.ipynb is not a notebook"),
    ):
        result = nnrepl_cli(name, stdin="", cwd=tmp_path)
        assert said in result.stderr
        assert (result.stderr.count("\n"), result.stdout, result.returncode) == (1, "", 2)


def test_syntax_error_in_a_cell(tmp_path: Path) -> None:
    notebook(tmp_path / "lesson.ipynb", "## text", "print('one')", "x = 1\nprint(x", "print('two')")
    result = nnrepl_cli("lesson.ipynb", stdin="", cwd=tmp_path)
    assert "lesson.ipynb, cell 2, line 2: '(' was never closed" in result.stderr
    assert result.stderr.count("\n") == 1
    assert result.returncode


def code_cell(**more: Any) -> dict[str, Any]:
    return {"cell_type": "code", "metadata": {}, "outputs": [], **more}


@pytest.mark.parametrize(
    "document",
    [
        {"nbformat": 4, "nbformat_minor": 5, "cells": [code_cell(source="print(1)\nprint(2)", execution_count=None)]},
        {"nbformat": 4, "nbformat_minor": 5, "cells": [code_cell(id="a", source=["print(1)\n", "print(2)"],
                                                                 execution_count=7)]},
        {"nbformat": 4, "nbformat_minor": 2, "cells": [code_cell(source="print(1)\nprint(2)", execution_count=None)]},
        {"nbformat": 3, "nbformat_minor": 0, "worksheets": [{"metadata": {}, "cells": [
            code_cell(input=["print(1)\n", "print(2)"], language="python", collapsed=False)]}]},
    ],
    ids=["without ids", "list of lines", "minor version 2", "version 3"],
)  # fmt: skip
def test_notebooks_of_other_programs(tmp_path: Path, document: dict[str, Any]) -> None:
    """No version is too old, and nothing is said about formalities."""
    (tmp_path / "lesson.ipynb").write_text(json.dumps({"metadata": {}, **document}))
    result = nnrepl_cli("--batch", "-c", "continue", "lesson.ipynb", cwd=tmp_path)
    assert result.stdout.splitlines()[:2] == ["1", "2"]
    assert (result.returncode, result.stderr) == (0, "")


SHOWS = """\
from IPython.display import HTML, Image, JSON, Latex, Markdown, clear_output, display
from IPython import get_ipython
import IPython.core.display
clear_output()
display(Markdown('# A *title*'), 1 + 1, 'text')
display(HTML('<table><tr><th>a</th><td>1</td></tr></table><script>no()</script><p>b</p>'))
display(Image(filename='plot.png'), JSON({'a': 1}), Latex('$x$'))
print(get_ipython())
import importlib.util, sys
print(sys.modules["IPython"].version_info[:2] >= (8, 24), importlib.util.find_spec("IPython.display").name)"""


def test_display_and_what_it_shows_work_without_ipython(tmp_path: Path) -> None:
    if importlib.util.find_spec("IPython") is not None:
        pytest.skip("the real one is installed")
    result = run(tmp_path, FORWARD, SHOWS, "display(Markdown('end'))")
    assert result.stderr == ""
    assert result.stdout.splitlines() == [
        "# A *title*", "2", "'text'", "a  1", "b", "<Image plot.png>", "{", '  "a": 1', "}", "$x$", "None",
        "True IPython.display", "end",
    ]  # fmt: skip


def test_a_script_has_no_ipython_that_plain_python_has_not(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text("try:\n    import IPython\nexcept ImportError:\n    print('none')")
    shown = nnrepl_cli("--batch", "-c", "continue", str(tmp_path / "script.py")).stdout
    assert ("none" in shown) == (importlib.util.find_spec("IPython") is None)


CELLS = (
    "import mlx.core as mx, mlx.nn as nn\nx = mx.ones((1, 2)) * 2",
    "model = nn.Linear(2, 1)\ndef loss_fn(x):\n    return model(x).sum()",
    "no = 'op'",
    "step = nn.value_and_grad(model, loss_fn)\nloss, grads = step(x)\nlater = loss * 2\nagain = step(x)",
    "print((later + 1).item())",
)


def test_from_cell_to_cell(tmp_path: Path) -> None:
    path = notebook(tmp_path / "lesson.ipynb", *CELLS)

    def cells(*lines: str) -> list[str]:
        commands = [part for line in lines for part in ("-c", line, "-c", "p 'at ' + '-' * 3", "-c", "where")]
        shown = nnrepl_cli("--batch", "--stop-at-entry", *commands, str(path)).stdout
        return [re.findall(r"lesson\.ipynb cell (\d:\d+) in <module>", part)[0] for part in shown.split("'at ---'")[1:]]

    assert cells("p 1", "next cell", "next cell") == ["1:2", "2:1", "4:2"]
    assert cells("next cell 3") == ["5:1"]
    assert cells("until cell 4", "rn cell", "rn cell", "next cell") == ["4:2", "2:1", "1:2", "2:1"]
    assert cells("break cell 4", "continue", "clear 1", "continue", "rn cell", "rn cell") == [
        "1:2", "4:2", "4:2", "5:1", "5:1", "4:2",
    ]  # fmt: skip
    assert cells("goto cell 4 multiply") == ["4:3"]


@pytest.mark.parametrize("line", ["next cell", "rn cell", "until cell 2", "break cell 2"])
def test_other_programs_have_no_cells(tmp_path: Path, line: str) -> None:
    (tmp_path / "script.py").write_text("import mlx.core as mx\nx = mx.ones(2) * 2\n")
    result = nnrepl_cli("--batch", "-c", "p 1", "-c", line, str(tmp_path / "script.py"))
    assert "this program has no cells: only notebooks have" in result.stdout


def test_a_cell_that_the_notebook_has_not(tmp_path: Path) -> None:
    path = notebook(tmp_path / "lesson.ipynb", *CELLS)
    result = nnrepl_cli("--batch", "--stop-at-entry", "-c", "break cell 9", str(path))
    assert "there is no cell 9; the notebook has cells 1 to 5" in result.stdout


# -- other kinds of programs in cells -------------------------------------------------------------------------


def test_another_kind_is_one_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader in the table is all that a kind needs: it is loaded, its cells are called as a notebook's, and `load`
    takes it for a program."""
    assert READERS.keys() == {".ipynb"}, "a new kind of program in cells belongs in tests/programs/test_notebook.py"
    monkeypatch.setitem(READERS, ".cells", lambda path, text: text.split("%%\n"))
    file = tmp_path / "two.cells"
    file.write_text("a = 1\n%%\nb = a + 1\ndisplay(b)\n")
    script = program_of(str(file))
    assert script is not None
    assert script.on_disk(f"{file}#2") == "b = a + 1\ndisplay(b)\n"
    (tmp_path / "net#2.py").write_text("a = 2\n")  # in no cells, whatever it is called
    plain = program_of(str(tmp_path / "net#2.py"))
    assert plain is not None
    assert plain.on_disk(str(tmp_path / "net#2.py")) == "a = 2\n"
    main, argv, paths = sys.modules["__main__"], sys.argv, list(sys.path)
    try:
        module = script.enter()
        script.run()
        assert (module.b, module.__file__) == (2, str(file))
    finally:
        sys.modules["__main__"], sys.argv, sys.path[:] = main, argv, paths
    file.write_text("a = (\n")
    with pytest.raises(CannotLoad, match=r"two\.cells, cell 1, line 1: '\(' was never closed"):
        load_script(str(file), [])
