"""What the tables of an answer share."""

from rich.table import Table

from planner.layout import Layout

SIZES = ("tp", "pp", "vpp", "cp", "ep", "etp", "dp", "edp", "mbs")
_SHORT_MODULES = {"layernorm": "ln", "mla_up_proj": "mla"}


def plain_table() -> Table:
    """A table without lines."""
    return Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold")


def size_cells(layout: Layout) -> list[str]:
    """The cells of `SIZES`."""
    sizes = [getattr(layout, name) for name in SIZES[:-1]]
    return [str(size) for size in (*sizes, layout.micro_batch_size)]


def recompute_cell(layout: Layout) -> str:
    """What is recomputed, in few letters."""
    words = [_SHORT_MODULES.get(module, module) for module in layout.recompute.modules]
    return "+".join(words) or str(layout.recompute)
