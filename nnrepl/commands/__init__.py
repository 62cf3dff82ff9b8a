"""What can be typed: one table of commands, which feeds the parser, the help and the completion."""


def load_all() -> None:
    """Import every module of commands, so that the table is complete."""
    from nnrepl.commands import (  # noqa: F401
        comparing,
        export,
        files,
        frames,
        general,
        graph,
        info,
        inside,
        lines,
        look,
        motions,
        passes,
        settings,
        stops,
        time,
        understand,
    )
