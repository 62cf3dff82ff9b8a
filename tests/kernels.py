"""Kernels: the header that MLX's kernels begin with is read once.

On a CPU MLX has `g++` compile each fused group of ops that no process has met on this machine; a fresh one meets more
than three hundred of them in this suite, and four fifths of the time of each go into reading one header, the same each
time. So `g++` is found here first, by MLX in any process that the tests start: it has the compiler read that header
once, keep what it has read, and begin there. What comes out is the same to the byte (`test_kernels`).
"""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path

import mlx.core as mx

HEADER = "mlx/backend/cpu/compiled_preamble.h"
_INSTEAD = """#!/bin/sh
# The first that compiles something has the header read; those beside it do not wait.
if [ "$1" != --version ] && mkdir {folder}/begun 2> /dev/null; then
    {compiler} -std=c++17 -O3 -Wall -fPIC -I {include} -x c++-header {include}/{header} -o {folder}/read 2> /dev/null &&
        mv {folder}/read {folder}/{header}.gch
fi
exec {compiler} -I {folder} "$@"
"""


def included() -> Path:
    """Where MLX's headers lie."""
    return Path(mx.__file__).parent / "include"


def read_header_once(folder: Path) -> None:
    """Put what stands in for the compiler into a folder, and find it there first from here on. Nothing is done where
    there is no such compiler or no such header.

    Args:
        folder: An empty folder, of this run alone: the compiler does not see that a header has changed meanwhile.
    """
    compiler = shutil.which("g++")
    if sys.platform != "linux" or compiler is None or not (included() / HEADER).exists():
        return
    (folder / HEADER).parent.mkdir(parents=True)
    names = {"folder": folder, "compiler": compiler, "include": included()}
    instead = folder / "g++"
    instead.write_text(_INSTEAD.format(header=HEADER, **{name: shlex.quote(str(path)) for name, path in names.items()}))
    instead.chmod(0o755)
    os.environ["PATH"] = f"{folder}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
