"""Sharing the current of a circuit tree: who may charge at all, and how much each gets.

COMPILED with Cython (types in sharing.pxd, bounds checks on); the same file runs as plain Python, and the
tests run both. Integers in milliamps, rounding down; nothing here knows a car, a meter or a clock.

The problem. Circuits form a tree, parents first; `headroom_ma[3c + p]` is what all our connectors below
circuit c may draw together on phase p. Connector i hangs on `circuit_of[i]`, loads the phases in the bit
mask `lines[i]` (1 = L1, 2 = L2, 4 = L3) with the same current on each, and takes 0 or something from
`min_ma[i]` to `max_ma[i]`.

1. Admission: walk the connectors in `order`; one is on if its minimum fits beside the minimums of those
   that are on already, in every circuit and phase above it.
2. Filling: all that are on rise together from their minimums (each waits there until the common level
   reaches it) to their maximums; when a circuit's phase is full, those on it stop. This is the max-min fair
   allocation: nobody can get more without taking from somebody who has less.
   (Progressive filling: Bertsekas and Gallager, Data Networks, 2nd ed., section 6.5.2.)
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence

OWN_MAXIMUM = -1
"""In `bound_by`: the connector gets all it can take."""

NOT_ADMITTED = -2
"""In `bound_by`: its minimum does not fit; it has to wait."""


class Tree:
    """A circuit tree with its connectors; built once, asked on every tick.

    `parents[c]` is the index of circuit c's parent, smaller than c, or -1 at the root.
    """

    def __init__(self, parents: Sequence[int], circuit_of: Sequence[int], lines: Sequence[int]) -> None:
        """Raises ValueError for a circuit before its parent, an unknown circuit or an empty phase mask."""
        for c, parent in enumerate(parents):
            if not -1 <= parent < c:
                msg = f"circuit {c}: parent {parent} must stand before it"
                raise ValueError(msg)
        for i, c in enumerate(circuit_of):
            if not 0 <= c < len(parents) or not 1 <= lines[i] <= 7:
                msg = f"connector {i}: circuit {c} or phases {lines[i]} do not exist"
                raise ValueError(msg)
        # Row 3c + p is phase p of circuit c. rows_of[start[i]:start[i + 1]] are the rows connector i loads.
        rows_of: list[int] = []
        start = [0]
        for i, leaf in enumerate(circuit_of):
            c = leaf
            while c != -1:
                rows_of += [3 * c + p for p in range(3) if lines[i] >> p & 1]
                c = parents[c]
            start.append(len(rows_of))
        self.connectors = len(circuit_of)
        self.rows = 3 * len(parents)
        self._rows_of = array("q", rows_of)
        self._start = array("q", start)
        # The other way round: members[first[r]:first[r + 1]] are the connectors that load row r.
        members: list[int] = []
        first = [0]
        for r in range(self.rows):
            members += [i for i in range(self.connectors) if r in rows_of[start[i] : start[i + 1]]]
            first.append(len(members))
        self._members = array("q", members)
        self._first = array("q", first)
        self._used = array("q", bytes(8 * self.rows))
        self._x = array("q", bytes(8 * self.connectors))
        self._bound = array("q", bytes(8 * self.connectors))
        self._on = array("q", bytes(8 * self.connectors))

    def share(
        self,
        headroom_ma: Sequence[int],
        min_ma: Sequence[int],
        max_ma: Sequence[int],
        order: Sequence[int],
    ) -> tuple[list[int], list[int]]:
        """Share once. Returns `x_ma` per connector and, per connector, the row that bound it.

        `order` lists the connectors that want current, first come first admitted; all others get 0. A
        connector whose maximum is below its minimum is not admitted. Negative headroom counts as none.
        """
        if len(headroom_ma) != self.rows or not self.connectors == len(min_ma) == len(max_ma):
            raise ValueError("headroom, minimums or maximums do not have the size of the tree")
        room = array("q", [max(0, ma) for ma in headroom_ma])
        least = array("q", min_ma)
        most = array("q", max_ma)
        wanting = array("q", order)
        self._admit(room, least, most, wanting)
        self._fill(room, least, most)
        return list(self._x), list(self._bound)

    def _admit(self, room: array[int], least: array[int], most: array[int], wanting: array[int]) -> None:
        for r in range(self.rows):
            self._used[r] = 0
        for i in range(self.connectors):
            self._x[i] = 0
            self._on[i] = 0
            self._bound[i] = NOT_ADMITTED
        for w in range(len(wanting)):
            i = wanting[w]
            if most[i] < least[i] or self._on[i]:
                continue
            fits = True
            for k in range(self._start[i], self._start[i + 1]):
                r = self._rows_of[k]
                if self._used[r] + least[i] > room[r]:
                    fits = False
                    break
            if fits:
                self._on[i] = 1
                for k in range(self._start[i], self._start[i + 1]):
                    self._used[self._rows_of[k]] += least[i]

    def _fill(self, room: array[int], least: array[int], most: array[int]) -> None:
        # `_on` is 1 while a connector still rises, 2 once it is settled. Each round finds the row that fills
        # first and settles its members, so there are at most as many rounds as rows.
        while True:
            level = -1
            tightest = -1
            for r in range(self.rows):
                at = self._level(r, room, least, most)
                if at >= 0 and (level < 0 or at < level):
                    level = at
                    tightest = r
            if tightest < 0:
                break
            for k in range(self._first[tightest], self._first[tightest + 1]):
                i = self._members[k]
                if self._on[i] == 1:
                    self._x[i] = min(max(level, least[i]), most[i])
                    self._bound[i] = OWN_MAXIMUM if self._x[i] == most[i] else tightest
                    self._on[i] = 2
        for i in range(self.connectors):
            if self._on[i] == 1:
                self._x[i] = most[i]
                self._bound[i] = OWN_MAXIMUM

    def _level(self, row: int, room: array[int], least: array[int], most: array[int]) -> int:
        """The highest common level at which this row is not over-full; -1 when it cannot fill up."""
        settled = 0
        members = 0
        top = 0
        at_most = 0
        for k in range(self._first[row], self._first[row + 1]):
            i = self._members[k]
            if self._on[i] == 2:
                settled += self._x[i]
            elif self._on[i] == 1:
                members += 1
                at_most += most[i]
                top = max(top, most[i])
        if members == 0 or settled + at_most <= room[row]:
            return -1
        low = 0  # at level 0 all stand at their minimums, which fit by admission
        high = top
        while high - low > 1:
            middle = (low + high) // 2
            total = settled
            for k in range(self._first[row], self._first[row + 1]):
                i = self._members[k]
                if self._on[i] == 1:
                    total += min(max(middle, least[i]), most[i])
            if total <= room[row]:
                low = middle
            else:
                high = middle
        return low
