"""What can be full: the rows of the sharing problem as this site has them, and their names for people.

A row is a phase of a circuit, the total of a circuit whose power is limited, or a phase of a circuit whose
unbalance is watched (see `sharing`). Each connector counts in its rows once, or once per phase in a total.
"""

from functools import lru_cache

from msgspec import Struct

from edge.control.sharing import Tree
from edge.control.site import NO_PARENT, Outlet, Site
from edge.control.state import Connector


class Rows(Struct, frozen=True, eq=False):
    """The rows of a site with the phases its cars use now; `of[i]` are (row, times) of connector i."""

    tree: Tree
    of: tuple[tuple[tuple[int, int], ...], ...]
    sums: dict[int, int]  # circuit -> the row of its total
    unbalanced: dict[int, int]  # circuit -> the first of its three unbalance rows


def used_lines(connector: Connector, outlet: Outlet) -> tuple[int, ...]:
    """The supply phases this connector loads: all that are wired until the meter has shown which."""
    if connector.used is None:
        return outlet.lines
    return tuple(outlet.lines[k] for k in connector.used)


def rows_of(site: Site, lines: tuple[tuple[int, ...], ...], sums: tuple[int, ...]) -> Rows:
    """The rows of `site`, with connector i on the supply phases `lines[i]` and totals for `sums`."""
    return _built(
        tuple(circuit.parent for circuit in site.circuits),
        tuple(outlet.circuit for outlet in site.outlets),
        lines,
        sums,
        tuple(c for c, circuit in enumerate(site.circuits) if circuit.unbalance_ma is not None),
    )


def row_name(site: Site, rows: Rows, row: int) -> str:
    """The row in words: "circuit garage L2"."""
    if row < 3 * len(site.circuits):
        return f"circuit {site.circuits[row // 3].id} L{row % 3 + 1}"
    for c, own in rows.sums.items():
        if own == row:
            return f"total of circuit {site.circuits[c].id}"
    for c, first in rows.unbalanced.items():
        if first <= row < first + 3:
            return f"unbalance of circuit {site.circuits[c].id} L{row - first + 1}"
    raise IndexError(row)


@lru_cache(maxsize=32)  # cars come and go on one phase or three; each combination in use stays at hand
def _built(
    parents: tuple[int, ...],
    circuit_of: tuple[int, ...],
    lines: tuple[tuple[int, ...], ...],
    sums: tuple[int, ...],
    unbalanced: tuple[int, ...],
) -> Rows:
    masks = [sum(1 << line for line in each) for each in lines]
    sum_rows = {c: 3 * len(parents) + k for k, c in enumerate(sums)}
    unbalance_rows = {c: 3 * len(parents) + len(sums) + 3 * k for k, c in enumerate(unbalanced)}
    of = []
    for i, leaf in enumerate(circuit_of):
        loaded: list[tuple[int, int]] = []
        c = leaf
        while c != NO_PARENT:
            loaded += [(3 * c + line, 1) for line in lines[i]]
            if c in sum_rows:
                loaded.append((sum_rows[c], len(lines[i])))
            if c in unbalance_rows and len(lines[i]) < 3:
                loaded += [(unbalance_rows[c] + line, 1) for line in lines[i]]
            c = parents[c]
        of.append(tuple(loaded))
    return Rows(Tree(parents, circuit_of, masks, sums, unbalanced), tuple(of), sum_rows, unbalance_rows)
