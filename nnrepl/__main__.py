"""`nnrepl` and `python -m nnrepl`: what runs before anything of nnrepl is imported."""

import gc
import os
import sys


def main() -> int:
    """Run nnrepl on the command line's arguments. Returns the exit status."""
    collecting = gc.isenabled()
    gc.disable()  # what is imported stays: to walk it while it grows, and again at the end, cost a third of the start
    try:
        from nnrepl.cli import main
        from nnrepl.commands import load_all
        from nnrepl.tape.collector import freeze_imports

        load_all()
        freeze_imports()
    finally:
        if collecting:
            gc.enable()
    return main()


if __name__ == "__main__":
    if not sys.flags.safe_path:
        sys.path[0] = os.path.dirname(sys.executable)  # not the working directory: no file there is to be run for ours
    sys.exit(main())
