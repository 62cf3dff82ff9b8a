"""What can be typed: one table of commands, which feeds the parser, the help and the completion."""


def load_all() -> None:
    """Import every module of commands, so that the table is complete."""
    from nnrepl.commands import general, inside, look, motions, passes, time, understand  # noqa: F401
