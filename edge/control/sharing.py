"""Sharing the current of a circuit tree: who may charge at all, and how much each gets.

COMPILED with Cython (types in sharing.pxd, bounds checks on); the same file runs as plain Python, and the
tests run both. Integers in milliamps; nothing here knows a car, a meter or a clock. docs/sharing.md explains
the method on one page, with an example.

The problem. Circuits form a tree, parents first. A *row* is something that can be full: phase p of circuit c
is row 3c + p; then comes one row for each circuit in `sums`, in which a connector counts once per phase it
loads (a limit of total power), then three for each circuit in `unbalanced`, in which only connectors on fewer
than three phases count. `room[r]` is what all our connectors may draw together in row r. Connector i hangs on
`circuit_of[i]`, loads the phases in the bit mask `lines[i]` (1 = L1, 2 = L2, 4 = L3) with the same current x
on each, and takes 0 or something from `least[i]` to `most[i]`.

1. Admission: walk the connectors in `order`; one is on if its minimum fits beside the minimums of those that
   are on already, in every row it loads.
2. Filling: all that are on rise together, x = weight * level, kept between minimum and maximum; when a row is
   full, those in it stop. That is the weighted max-min fair allocation: nobody can get more without taking
   from somebody who has less for his weight (Bertsekas and Gallager, Data Networks, 2nd ed., section 6.5.2).
   With `strict`, the classes of `priority` are filled one after the other, the others waiting at their
   minimums.

The method. Each row knows a level below which it cannot fill; the row with the lowest is solved exactly when
it comes to the top of a heap, and goes back if that raised its level. Rows that never come up are never
solved. Currents are carried with FRACTION more bits than a milliamp has and rounded down once, at the end. An
answer is handed out only with a certificate, worked out from the answer alone: `certified`.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from itertools import accumulate

OWN_MAXIMUM = -1
"""In `bound`: the connector gets all it can take."""

UNFIT = -2
"""In `bound`: its maximum is below its minimum, so it cannot charge."""

INACTIVE = -3
"""In `bound`: it does not ask."""

MOST_CONNECTORS = 2048
MOST_WEIGHT = 1 << 18
MOST_MA = 1 << 25
"""What keeps every sum and product below 63 bits. 33 kA is more than any low-voltage circuit carries; larger
rooms are cut to it."""

FRACTION = 20
"""Bits behind the milliamp: all roundings of one answer together stay below 0.01 mA."""

LEVEL = 37
"""Bits behind the milliamp of a level (current per weight): FRACTION and nearly the 18 bits of a weight."""

UP = 1 << 6
"""Added before the last rounding down: 2^-14 mA, more than the roundings before it took away, and with all
connectors on one row three times over still less than a milliamp in sum, so no row is overfilled by it."""

# The same for the compiled loops: C integers of this module, invisible from outside (see sharing.pxd).
_OWN_MAXIMUM, _UNFIT, _INACTIVE = OWN_MAXIMUM, UNFIT, INACTIVE
_MOST_WEIGHT, _MOST_MA, _FRACTION, _SHIFT, _UP = MOST_WEIGHT, MOST_MA, FRACTION, LEVEL - FRACTION, UP
_FINEST = 14  # UP is 2^-14 mA

_OFF, _RISING, _SETTLED, _LATER = 0, 1, 2, 3


class Tree:
    """A circuit tree with its connectors; built once, asked on every tick.

    `parents[c]` is the index of circuit c's parent, smaller than c, or -1 at a root. Whoever asks writes
    `room` per row and `least`, `most`, `weight`, `priority` per connector (`weight` is 1 and `priority` 0
    from the start), `order`, calls `share` and reads `x` and `bound`; all are arrays of 64-bit integers that
    stay the same objects, so that a tick allocates nothing. `solve` does all this with lists.
    """

    def __init__(
        self,
        parents: Sequence[int],
        circuit_of: Sequence[int],
        lines: Sequence[int],
        sums: Sequence[int] = (),
        unbalanced: Sequence[int] = (),
    ) -> None:
        """Raises ValueError for a circuit before its parent, an unknown circuit or an empty phase mask."""
        circuits, n = len(parents), len(circuit_of)
        _check(parents, circuit_of, lines, [*sums, *unbalanced])
        self.connectors = n
        self.rows = 3 * circuits + len(sums) + 3 * len(unbalanced)
        # near[near_start[i]:near_start[i + 1]] are the rows that connector i adds to itself; from there
        # `above` leads on to the same phase of the parent. rows_of[start[i]:start[i + 1]] are all rows it
        # loads. times_* say how often it counts there: its number of phases in a sum row, else 1.
        above = [-1] * self.rows
        for c, parent in enumerate(parents):
            if parent >= 0:
                for p in range(3):
                    above[3 * c + p] = 3 * parent + p
        sum_row = {c: 3 * circuits + k for k, c in enumerate(sums)}
        unbalance_row = {c: 3 * circuits + len(sums) + 3 * k for k, c in enumerate(unbalanced)}
        near: list[int] = []
        times_near: list[int] = []
        near_start = [0]
        rows_of: list[int] = []
        times_of: list[int] = []
        start = [0]
        members: list[list[tuple[int, int]]] = [[] for _ in range(self.rows)]
        for i in range(n):
            phases = [p for p in range(3) if lines[i] >> p & 1]
            leaf = c = circuit_of[i]
            while c != -1:
                loaded = [(3 * c + p, 1) for p in phases]
                extra = [(sum_row[c], len(phases))] if c in sum_row else []
                if c in unbalance_row and len(phases) < 3:
                    extra += [(unbalance_row[c] + p, 1) for p in phases]
                for r, times in loaded + extra if c == leaf else extra:
                    near.append(r)
                    times_near.append(times)
                for r, times in loaded + extra:
                    rows_of.append(r)
                    times_of.append(times)
                    members[r].append((i, times))
                c = parents[c]
            near_start.append(len(near))
            start.append(len(rows_of))
        first = [0, *accumulate(len(row) for row in members)]
        self.room = _zeros(self.rows)
        self.least = _zeros(n)
        self.most = _zeros(n)
        self.weight = array("q", [1] * n)
        self.priority = _zeros(n)
        self.order = array("q", range(n))
        self.x = _zeros(n)
        self.bound = array("q", [INACTIVE] * n)
        self._room, self._least, self._most, self._weight = self.room, self.least, self.most, self.weight
        self._priority, self._order, self._x, self._bound = self.priority, self.order, self.x, self.bound
        self._above = array("q", above)
        self._near, self._times_near = array("q", near), array("q", times_near)
        self._near_start = array("q", near_start)
        self._rows_of, self._times_of, self._start = (
            array("q", rows_of),
            array("q", times_of),
            array("q", start),
        )
        self._members = array("q", [i for row in members for i, _ in row])
        self._times_in = array("q", [times for row in members for _, times in row])
        self._first = array("q", first)
        # Scratch. Per connector: its part in the filling, its x with FRACTION bits, the levels at which it
        # leaves its minimum and reaches its maximum. Per row: what is free, the sums over those that rise,
        # what the settled ones take, and whether its level is exact (then num / den is that level).
        self._part, self._fine, self._low, self._top = _zeros(n), _zeros(n), _zeros(n), _zeros(n)
        self._picked, self._picked_times = _zeros(n), _zeros(n)
        self._free, self._sum_min, self._sum_max = _zeros(self.rows), _zeros(self.rows), _zeros(self.rows)
        self._sum_weight, self._settled = _zeros(self.rows), _zeros(self.rows)
        self._solved, self._num, self._den = _zeros(self.rows), _zeros(self.rows), _zeros(self.rows)
        self._heap, self._key = _zeros(self.rows), _zeros(self.rows)
        self._heaped = 0
        self._rising = 0

    def share(self, asking: int, strict: bool = False) -> bool:  # noqa: FBT001, FBT002 - as in the .pxd
        """Share once among `order[:asking]`; all others get 0. Fills `x` (mA) and `bound`.

        `bound[i]` is the row that kept connector i from more (or, with x 0, from its minimum), or one of the
        constants above. Negative room counts as none. `order` is by class, the highest first, wherever
        priorities differ. True if the answer passed the certificate; it must not be used if not. Raises
        ValueError for a minimum, maximum or weight out of bounds, IndexError for an unknown connector.
        """
        if asking < 0 or asking > self.connectors:
            raise ValueError("more connectors ask than there are")
        if self._everything_fits(asking):
            return True  # all at their maximums, and every row was just seen to carry them: nothing to judge
        if not self._minimums_fit():
            self._admit(asking)
        self._fill(asking, strict)
        return self.certified(asking, strict)

    def _everything_fits(self, asking: int) -> bool:
        """Read the question; if all maximums fit, that is the answer."""
        for r in range(self.rows):
            self._free[r] = min(max(self._room[r], 0), _MOST_MA)
            self._sum_min[r] = 0
            self._sum_max[r] = 0
        for i in range(self.connectors):
            self._part[i] = _OFF
            self._x[i] = 0
            self._bound[i] = _INACTIVE
        for k in range(asking):
            i = self._order[k]
            if self._part[i] != _OFF:
                continue
            least = self._least[i]
            most = self._most[i]
            if least < 0 or most > _MOST_MA or self._weight[i] < 1 or self._weight[i] > _MOST_WEIGHT:
                raise ValueError(f"connector {i}: minimum, maximum or weight out of bounds")
            if most < least:
                self._bound[i] = _UNFIT
                continue
            self._part[i] = _RISING
            self._x[i] = most
            self._bound[i] = _OWN_MAXIMUM
            for j in range(self._near_start[i], self._near_start[i + 1]):
                r = self._near[j]
                self._sum_min[r] += self._times_near[j] * least
                self._sum_max[r] += self._times_near[j] * most
        fits = True
        for r in range(self.rows - 1, -1, -1):  # children before parents
            up = self._above[r]
            if up >= 0:
                self._sum_min[up] += self._sum_min[r]
                self._sum_max[up] += self._sum_max[r]
            if self._sum_max[r] > self._free[r]:
                fits = False
        return fits

    def _minimums_fit(self) -> bool:
        for r in range(self.rows):
            if self._sum_min[r] > self._free[r]:
                return False
        return True

    def _admit(self, asking: int) -> None:
        """Settle who is on; `_sum_min` is then over those. Only rows the minimums overfill can refuse."""
        for r in range(self.rows):
            self._solved[r] = 1 if self._sum_min[r] > self._free[r] else 0
            self._sum_weight[r] = 0
        for k in range(asking):
            i = self._order[k]
            if self._part[i] != _RISING:
                continue
            least = self._least[i]
            full = -1
            for j in range(self._start[i], self._start[i + 1]):
                r = self._rows_of[j]
                if self._solved[r] and self._sum_weight[r] + self._times_of[j] * least > self._free[r]:
                    full = r
                    break
            if full >= 0:
                self._part[i] = _OFF
                self._x[i] = 0
                self._bound[i] = full
                for j in range(self._start[i], self._start[i + 1]):
                    self._sum_min[self._rows_of[j]] -= self._times_of[j] * least
                continue
            self._part[i] = _LATER  # a connector that stands twice in `order` counts once
            for j in range(self._start[i], self._start[i + 1]):
                r = self._rows_of[j]
                if self._solved[r]:
                    self._sum_weight[r] += self._times_of[j] * least

    def _fill(self, asking: int, strict: bool) -> None:  # noqa: FBT001 - the shape of the .pxd
        """Raise all that are on, class by class where `strict`."""
        for r in range(self.rows):
            self._settled[r] = self._sum_min[r] << _FRACTION
        for k in range(asking):
            i = self._order[k]
            if self._part[i] != _OFF:
                self._part[i] = _LATER
                self._low[i] = (self._least[i] << _FRACTION << _SHIFT) // self._weight[i]
                self._top[i] = (self._most[i] << _FRACTION << _SHIFT) // self._weight[i]
        begin = 0
        while begin < asking:
            end = begin + 1
            if strict:
                while end < asking and self._priority[self._order[end]] == self._priority[self._order[begin]]:
                    end += 1
            else:
                end = asking
            self._fill_class(begin, end)
            begin = end
        for k in range(asking):
            i = self._order[k]
            if self._part[i] == _SETTLED:
                self._x[i] = (self._fine[i] + _UP) >> _FRACTION
                if self._x[i] == self._most[i]:
                    self._bound[i] = _OWN_MAXIMUM

    def _fill_class(self, begin: int, end: int) -> None:
        """Raise `order[begin:end]` until each is stopped; all later ones wait at their minimums."""
        self._heaped = 0
        self._rising = 0
        for r in range(self.rows):
            self._sum_min[r] = 0
            self._sum_max[r] = 0
            self._sum_weight[r] = 0
            self._solved[r] = 0
            self._key[r] = 0  # for the moment, the highest level at which somebody leaves his minimum
        for k in range(begin, end):
            i = self._order[k]
            if self._part[i] != _LATER:
                continue
            self._part[i] = _RISING
            self._rising += 1
            for j in range(self._near_start[i], self._near_start[i + 1]):
                r = self._near[j]
                times = self._times_near[j]
                self._sum_min[r] += times * self._least[i]
                self._sum_max[r] += times * self._most[i]
                self._sum_weight[r] += times * self._weight[i]
                self._key[r] = max(self._key[r], self._low[i])
        for r in range(self.rows - 1, -1, -1):
            self._settled[r] -= self._sum_min[r] << _FRACTION
            left = (self._free[r] << _FRACTION) - self._settled[r]
            contended = self._sum_max[r] << _FRACTION > left
            up = self._above[r]
            if up >= 0:
                self._sum_min[up] += self._sum_min[r]
                # No more can come up from here than goes through; a row above that carries it cannot fill up.
                self._sum_max[up] += (left >> _FRACTION) + 1 if contended else self._sum_max[r]
                self._sum_weight[up] += self._sum_weight[r]
                self._key[up] = max(self._key[up], self._key[r])
            if contended:
                self._push(r, self._least_level(r, left))
        while self._heaped > 0 and self._rising > 0:
            r = self._heap[0]
            if self._solved[r] == 0:
                at = self._level(r)
                if at < 0:
                    self._pop()
                    continue
                self._solved[r] = 1
                if at > self._key[r]:
                    self._key[r] = at
                    self._sink(0)
                    continue
            self._pop()
            self._stop(r)
        for k in range(begin, end):
            i = self._order[k]
            if self._part[i] == _RISING:
                self._settle(i, self._most[i] << _FRACTION, _OWN_MAXIMUM)

    def _least_level(self, row: int, left: int) -> int:
        """A level below which this row cannot be full: as if nobody stopped at his maximum."""
        at = (left << _SHIFT) // self._sum_weight[row]
        if at < self._key[row]:  # not all have left their minimums then; as if all rose from there at once
            at = ((left - (self._sum_min[row] << _FRACTION)) << _SHIFT) // self._sum_weight[row]
        return at

    def _level(self, row: int) -> int:
        """The level at which this row is full, exactly num / den; -1 when it cannot fill up any more.

        By fixing variables (Bitran and Hax, Management Science 27, 1981): whoever must be at an end of his
        range, whatever the rest does, is taken out, until nobody is.
        """
        left = max(
            (self._free[row] << _FRACTION) - self._settled[row], 0
        )  # rounding may have taken a bit more
        at = self._key[row]
        weights = 0
        count = 0
        wanted_ma = 0
        for j in range(self._first[row], self._first[row + 1]):
            i = self._members[j]
            if self._part[i] != _RISING:
                continue
            times = self._times_in[j]
            wanted_ma += times * self._most[i]
            if at >= self._top[i]:  # the level is at least what the heap said
                left -= (times * self._most[i]) << _FRACTION
                wanted_ma -= times * self._most[i]
                continue
            self._picked[count] = i
            self._picked_times[count] = times
            weights += times * self._weight[i]
            count += 1
        if wanted_ma << _FRACTION <= left:
            return -1
        while weights > 0:
            self._num[row] = left
            self._den[row] = weights
            whole = left // weights
            rest = left % weights
            at = (left << _SHIFT) // weights
            low_weights = 0
            low_ma = 0
            top_weights = 0
            top_ma = 0
            for j in range(count):
                i = self._picked[j]
                if at >= self._top[i]:
                    top_ma += self._picked_times[j] * self._most[i]
                    top_weights += self._picked_times[j] * self._weight[i]
                elif at <= self._low[i]:
                    low_ma += self._picked_times[j] * self._least[i]
                    low_weights += self._picked_times[j] * self._weight[i]
            if low_weights == 0 and top_weights == 0:
                break
            missing = (low_ma << _FRACTION) - (low_weights * whole + low_weights * rest // weights)
            spare = (top_weights * whole + top_weights * rest // weights) - (top_ma << _FRACTION)
            # Where there is only one kind, it goes: rounding may have made its part negative.
            drop_top = low_weights == 0 or (top_weights > 0 and spare >= missing)
            drop_low = top_weights == 0 or (low_weights > 0 and missing >= spare)
            kept = 0
            for j in range(count):
                i = self._picked[j]
                if at >= self._top[i]:
                    if drop_top:
                        continue
                elif drop_low and at <= self._low[i]:
                    continue
                self._picked[kept] = i
                self._picked_times[kept] = self._picked_times[j]
                kept += 1
            count = kept
            if drop_top:
                left -= top_ma << _FRACTION
                weights -= top_weights
            if drop_low:
                left -= low_ma << _FRACTION
                weights -= low_weights
        return at

    def _stop(self, row: int) -> None:
        """Row `row` is full: those who still rise in it stop at its level."""
        num = self._num[row]
        den = self._den[row]
        at = self._key[row]
        for j in range(self._first[row], self._first[row + 1]):
            i = self._members[j]
            if self._part[i] != _RISING:
                continue
            if at >= self._top[i]:
                self._settle(i, self._most[i] << _FRACTION, _OWN_MAXIMUM)
            elif at <= self._low[i]:
                self._settle(i, self._least[i] << _FRACTION, row)
            else:
                weight = self._weight[i]
                self._settle(i, weight * (num // den) + weight * (num % den) // den, row)

    def _settle(self, i: int, fine: int, bound: int) -> None:
        """Connector i stops; the rows it loads have to be looked at again."""
        self._part[i] = _SETTLED
        self._fine[i] = fine
        self._bound[i] = bound
        self._rising -= 1
        for j in range(self._start[i], self._start[i + 1]):
            r = self._rows_of[j]
            self._settled[r] += self._times_of[j] * fine
            self._solved[r] = 0

    # -- a binary heap of rows, the lowest level on top ------------------------------------------------

    # Of rows that fill at the same level the first is on top: people expect to be told L1, not L3.

    def _push(self, row: int, key: int) -> None:
        self._key[row] = key
        at = self._heaped
        self._heaped += 1
        while at > 0:
            above = self._heap[(at - 1) >> 1]
            if self._key[above] < key or (self._key[above] == key and above < row):
                break
            self._heap[at] = above
            at = (at - 1) >> 1
        self._heap[at] = row

    def _pop(self) -> None:
        self._heaped -= 1
        if self._heaped > 0:
            self._heap[0] = self._heap[self._heaped]
            self._sink(0)

    def _sink(self, at: int) -> None:
        row = self._heap[at]
        key = self._key[row]
        while True:
            child = 2 * at + 1
            if child >= self._heaped:
                break
            below = self._heap[child]
            least = self._key[below]
            if child + 1 < self._heaped:
                other = self._heap[child + 1]
                if self._key[other] < least or (self._key[other] == least and other < below):
                    below = other
                    least = self._key[other]
                    child += 1
            if least > key or (least == key and below > row):
                break
            self._heap[at] = below
            at = child
        self._heap[at] = row

    # -- the certificate -------------------------------------------------------------------------------

    def certified(self, asking: int, strict: bool = False) -> bool:  # noqa: FBT001, FBT002 - as `share`
        """Whether `x` answers the question that stands in the other arrays; necessary and sufficient.

        (i) Every x is 0 or within its range and no row is overfilled; (ii) walking `order`, a connector is on
        exactly if its minimum fits beside those that are on before it; (iii) whoever is on below his maximum
        stands in a full row in which everybody else is at his minimum or has no more for his weight (where
        `strict`: in which nobody of a lower class is above his minimum, and this holds in his own class). A
        row is full when less is left than rounding each member down to a milliamp can have freed.
        """
        for r in range(self.rows):
            self._free[r] = min(max(self._room[r], 0), _MOST_MA)
            self._sum_min[r] = 0
            self._sum_max[r] = 0
            self._sum_weight[r] = 0
        for i in range(self.connectors):
            self._part[i] = _OFF
        # `_sum_min` adds up what is drawn, `_sum_weight` how often rounding down took part.
        everybody = True
        for k in range(asking):
            i = self._order[k]
            if self._part[i] != _OFF:
                continue
            self._part[i] = _SETTLED
            x = self._x[i]
            least = self._least[i]
            if x != 0 and (x < least or x > self._most[i]):
                return False
            if self._most[i] < least:
                continue
            if x == 0 and least > 0:
                everybody = False
                continue
            for j in range(self._near_start[i], self._near_start[i + 1]):
                self._sum_min[self._near[j]] += self._times_near[j] * x
                self._sum_weight[self._near[j]] += self._times_near[j]
        for i in range(self.connectors):
            if self._part[i] == _OFF and self._x[i] != 0:
                return False
        for r in range(self.rows - 1, -1, -1):
            up = self._above[r]
            if up >= 0:
                self._sum_min[up] += self._sum_min[r]
                self._sum_weight[up] += self._sum_weight[r]
            left = self._free[r] - self._sum_min[r]
            if left < 0:
                return False
            self._solved[r] = 1 if left < self._sum_weight[r] else 0
        # When nobody was left out there is nothing to walk: what is drawn fits, so do the minimums.
        return (everybody or self._rightly_admitted(asking)) and self._rightly_stopped(asking, strict)

    def _rightly_admitted(self, asking: int) -> bool:
        """Condition (ii); `_sum_max` adds up the minimums of those that are on."""
        for k in range(asking):
            i = self._order[k]
            least = self._least[i]
            if self._part[i] != _SETTLED or self._most[i] < least:
                continue
            self._part[i] = _LATER  # judged
            fits = True
            for j in range(self._start[i], self._start[i + 1]):
                r = self._rows_of[j]
                if self._sum_max[r] + self._times_of[j] * least > self._free[r]:
                    fits = False
                    break
            if least > 0 and fits != (self._x[i] > 0):
                return False
            if fits:
                for j in range(self._start[i], self._start[i + 1]):
                    self._sum_max[self._rows_of[j]] += self._times_of[j] * least
        return True

    def _rightly_stopped(self, asking: int, strict: bool) -> bool:  # noqa: FBT001 - the shape of the .pxd
        """Condition (iii). Per full row, num / den is the most anybody of the class has for his weight.

        `_solved` is 1 for a full row, 2 once somebody of a lower class is above his minimum in it.
        """
        end = asking
        while end > 0:
            begin = end - 1
            if strict:
                while begin > 0 and (
                    self._priority[self._order[begin - 1]] == self._priority[self._order[end - 1]]
                ):
                    begin -= 1
            else:
                begin = 0
            for k in range(begin, end):
                self._fine[self._order[k]] = 1  # of the class being judged
            for r in range(self.rows):
                if self._solved[r] == 0:
                    continue
                self._num[r] = 0
                self._den[r] = 1
                for j in range(self._first[r], self._first[r + 1]):
                    i = self._members[j]
                    x = self._x[i]
                    if (
                        self._fine[i] == 1
                        and x > self._least[i]
                        and x * self._den[r] > self._num[r] * self._weight[i]
                    ):
                        self._num[r] = x
                        self._den[r] = self._weight[i]
            for k in range(begin, end):
                i = self._order[k]
                below = self._x[i] < self._most[i] and (self._x[i] > 0 or self._least[i] == 0)
                if below and not self._is_stopped(i):
                    return False
            for k in range(begin, end):
                self._fine[self._order[k]] = 0
            if begin > 0:
                for r in range(self.rows):
                    if self._solved[r] and self._num[r] > 0:
                        self._solved[r] = 2
            end = begin
        return True

    def _is_stopped(self, i: int) -> bool:
        """Whether a full row rightly keeps connector i from more; the one in `bound` is looked at first."""
        r = self._bound[i]
        if r >= 0 and self._stops(r, i):
            for j in range(self._start[i], self._start[i + 1]):
                if self._rows_of[j] == r:
                    return True
        for j in range(self._start[i], self._start[i + 1]):
            if self._stops(self._rows_of[j], i):
                return True
        return False

    def _stops(self, row: int, i: int) -> bool:
        """Whether `row` is full of others who have no more for their weight, to a milliamp of rounding down.

        Another's milliamps may have been rounded up by UP, 2^-14 of one.
        """
        if self._solved[row] != 1:
            return False
        most = (self._num[row] << _FINEST) - 1
        return most * self._weight[i] <= ((self._x[i] + 1) << _FINEST) * self._den[row]

    # -- with lists ------------------------------------------------------------------------------------

    def solve(
        self,
        room: Sequence[int],
        least: Sequence[int],
        most: Sequence[int],
        order: Sequence[int],
        weight: Sequence[int] | None = None,
        priority: Sequence[int] | None = None,
        *,
        strict: bool = False,
    ) -> tuple[list[int], list[int]]:
        """Share once, for tools and tests: (`x`, `bound`). Raises as `share`; ValueError for wrong sizes."""
        n = self.connectors
        weight = [1] * n if weight is None else weight
        priority = [0] * n if priority is None else priority
        if len(room) != self.rows or any(len(each) != n for each in (least, most, weight, priority)):
            raise ValueError("rooms, minimums, maximums, weights or classes do not have the size of the tree")
        if len(order) > n or any(not 0 <= i < n for i in order):
            raise ValueError("the order names more connectors than there are")
        memoryview(self.room)[:] = array("q", room)
        memoryview(self.least)[:] = array("q", least)
        memoryview(self.most)[:] = array("q", most)
        memoryview(self.weight)[:] = array("q", weight)
        memoryview(self.priority)[:] = array("q", priority)
        memoryview(self.order)[: len(order)] = array("q", order)
        if not self.share(len(order), strict):
            raise ArithmeticError("the certificate refuses the answer: a defect of the sharing kernel")
        return list(self.x), list(self.bound)


def _check(
    parents: Sequence[int], circuit_of: Sequence[int], lines: Sequence[int], named: Sequence[int]
) -> None:
    for c, parent in enumerate(parents):
        if not -1 <= parent < c:
            raise ValueError(f"circuit {c}: parent {parent} must stand before it")
    for i, c in enumerate(circuit_of):
        if not 0 <= c < len(parents) or not 1 <= lines[i] <= 7:
            raise ValueError(f"connector {i}: circuit {c} or phases {lines[i]} do not exist")
    for c in named:
        if not 0 <= c < len(parents):
            raise ValueError(f"circuit {c} does not exist")
    if len(circuit_of) > MOST_CONNECTORS:
        raise ValueError(f"{len(circuit_of)} connectors; at most {MOST_CONNECTORS} can share")


def _zeros(count: int) -> array[int]:
    return array("q", bytes(8 * count))
