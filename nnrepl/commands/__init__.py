"""What can be typed: one table of commands, which feeds the parser, the help and the completion."""

from importlib import import_module

MODULES = (
    "export", "call_stack", "general", "drawing", "overviews", "take_apart", "lines", "looking", "list_ops", "moving",
    "pass_motions", "configure", "breakpoints", "time", "understand", "learning", "save_load", "reloading",
    "comparison", "prompt_cells",
)  # fmt: skip
"""The modules of commands, in the order in which help and README list them."""


def load_all() -> None:
    """Import every module of commands, so that the table is complete, and in order whoever imported one before."""
    from nnrepl.commands.table import TABLE

    places = {f"{__name__}.{name}": place for place, name in enumerate(MODULES)}
    for module in places:
        import_module(module)
    TABLE.commands.sort(key=lambda command: places.get(command.run.__module__, len(places)))
