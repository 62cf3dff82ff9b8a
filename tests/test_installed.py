"""What is a library's and what is the program's, wherever either lies."""

from __future__ import annotations

import os
import statistics
import sys
from pathlib import Path

import mlx.nn
import pytest
import rich

from nnrepl.installed import is_library, is_mlx, is_standard, library_folders


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder into which `pip install --target` has put two packages, with a program beside them."""
    for name, files in (("mlx", "mlx/nn/utils.py,sha256=a,12"), ("six", "six.py,,\n__pycache__/six.pyc,,")):
        (tmp_path / f"{name}-1.dist-info").mkdir()
        (tmp_path / f"{name}-1.dist-info" / "RECORD").write_text(f"{files}\n{name}-1.dist-info/RECORD,,\n../bin/x,,\n")
    monkeypatch.setattr(sys, "path", [*sys.path, f"{tmp_path}/"])
    return tmp_path


def test_python_and_installed_packages_are_libraries() -> None:
    for file in (os.__file__, statistics.__file__, rich.__file__, mlx.nn.__file__, "<frozen importlib._bootstrap>"):
        assert is_library(file), file
    assert [is_mlx(file) for file in (mlx.nn.__file__, rich.__file__, os.__file__)] == [True, False, False]
    assert [is_standard(file) for file in (mlx.nn.__file__, os.__file__, __file__)] == [False, True, False]


@pytest.mark.parametrize("file", [__file__, "/home/me/mlx/train.py", "/usr/src/app/train.py", "<prompt 1>", "train.py"])
def test_what_lies_elsewhere_is_the_programs(file: str) -> None:
    """Also in a folder called as a library, and under the folder beneath which Python itself is installed."""
    assert not is_library(file)
    assert not is_mlx(file)


def test_a_package_may_be_installed_anywhere(bundle: Path) -> None:
    assert is_library(f"{bundle}/mlx/nn/utils.py")
    assert is_mlx(f"{bundle}/mlx/nn/utils.py")
    assert is_library(f"{bundle}/six.py")
    assert not is_mlx(f"{bundle}/six.py")
    assert not is_library(f"{bundle}/train.py")
    assert not is_library(f"{bundle}/models/mlx/net.py")


def test_libraries_are_looked_for_where_they_lie(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Last where the program's files may lie: a `statistics.py` there would stand for Python's."""
    own, packages = str(tmp_path_factory.mktemp("own")), "/opt/site-packages"
    path = [str(bundle), own, os.path.dirname(os.__file__), packages]
    assert library_folders(path) == [os.path.dirname(os.__file__), packages, str(bundle)]
