"""What the demo shows: a table that stays and event lines that scroll; without a terminal, plain lines."""

import time
from typing import Any, Self

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

_SNAPSHOT_S = 5.0
"""Without a terminal the table is printed this often."""

_PLAIN_COLUMNS = 140
"""In a file or a CI log nothing needs to be wrapped."""

COLOURS = {
    "available": "green",
    "preparing": "yellow",
    "charging": "bold green",
    "suspended_ev": "cyan",
    "suspended_evse": "magenta",
    "finishing": "blue",
    "faulted": "bold red",
    "unknown": "bold red",
}
"""Of the states of a connector."""


class Screen:
    """Use as a context manager."""

    def __init__(self) -> None:
        self.console = Console(highlight=False)
        if not self.console.is_terminal:
            self.console = Console(highlight=False, width=_PLAIN_COLUMNS)
        self._began_s = time.monotonic()
        self._live = Live(console=self.console, auto_refresh=False) if self.console.is_terminal else None
        self._next_snapshot_s = 0.0

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def tell(self, text: str) -> None:
        """Say what happens in the story."""
        self._line(f"[bold]» {escape(text)}[/bold]")

    def event(self, topic: str, text: str, connector: str | None) -> None:
        """Show what the station says about itself."""
        where = f"connector {connector}: " if connector else ""
        colour = "red" if topic in ("card_refused", "fault_raised") else "dim"
        self._line(f"[{colour}]  {topic:<16} {escape(where + text)}[/{colour}]")

    def show(self, status: dict[str, Any], cars: dict[int, str], supply: str) -> None:
        """Show the station as it stands."""
        page = Group(_table(status, cars), Text(supply), Text(_payments(status)))
        if self._live is not None:
            self._live.update(page, refresh=True)
        elif time.monotonic() >= self._next_snapshot_s:
            self._next_snapshot_s = time.monotonic() + _SNAPSHOT_S
            self.console.print(page)

    def _line(self, markup: str) -> None:
        self.console.print(f"[dim]{time.monotonic() - self._began_s:5.1f} s[/dim] {markup}")


def _table(status: dict[str, Any], cars: dict[int, str]) -> Table:
    table = Table(title=f"station {status['station']}   {status['price']}", title_justify="left")
    for name in ("", "state", "car", "offered A", "measured A (L1 L2 L3)", "kWh", "price", "why not more"):
        table.add_column(name, justify="right" if name in ("offered A", "kWh", "price") else "left")
    for c in status["connectors"]:
        measured = " ".join(f"{ma / 1000:5.1f}" for ma in c["current_ma"]) if c["current_ma"] else "?"
        table.add_row(
            str(c["number"]),
            Text(c["state"], style=COLOURS.get(c["state"], "")),
            cars.get(c["number"], "-"),
            f"{c['offered_ma'] / 1000:.1f}",
            measured,
            "" if c["energy_wh"] is None else f"{c['energy_wh'] / 1000:.3f}",
            c["cost"] or "",
            c["why"],
        )
    return table


def _payments(status: dict[str, Any]) -> str:
    claims = status["claims"]
    link = "online" if status["online"] else "OFFLINE"
    return f"operator {link}   payments: {claims['closed']} waiting, {claims['settled']} settled"
