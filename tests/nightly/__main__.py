"""`./run nightly [--ticks N] [--seed N]`: a million random ticks through the sharing kernel, each judged."""

import argparse
import faulthandler
import secrets
import sys
import time

from tests.nightly.run import Progress, run

HANGS_AFTER_S = 60
"""For one site; then the run ends with a traceback. Nothing else can stop the compiled kernel."""


def main() -> int:
    """Return 1 at the first tick that breaks a rule, having said how to make a test of it."""
    parser = argparse.ArgumentParser(prog="./run nightly", description=__doc__)
    parser.add_argument(
        "--ticks", type=int, default=1_000_000, metavar="N", help="how many (default 1000000)"
    )
    parser.add_argument("--seed", type=int, metavar="N", help="repeat a run (default: a new one)")
    options = parser.parse_args()
    seed = secrets.randbelow(1 << 32) if options.seed is None else options.seed
    print(f"seed {seed}", flush=True)
    screen = _Screen(options.ticks)
    faulthandler.dump_traceback_later(HANGS_AFTER_S, exit=True)
    verdict = run(seed, options.ticks, screen.show)
    if verdict is None:
        print("\nevery answer kept to the rules")
        return 0
    print(f"\n{verdict.sentence}\nstrict = {verdict.strict}\ncase = {verdict.instance}\nx = {verdict.x}")
    return 1


class _Screen:
    """One line that changes on a terminal, one line a minute elsewhere."""

    def __init__(self, ticks: int) -> None:
        self.ticks = ticks
        self.begin, self.end, self.every_s = ("\r", "", 1) if sys.stdout.isatty() else ("", "\n", 60)
        self.began = self.shown = time.monotonic()

    def show(self, progress: Progress) -> None:
        faulthandler.dump_traceback_later(HANGS_AFTER_S, exit=True)
        now = time.monotonic()
        if now - self.shown >= self.every_s or progress.ticks >= self.ticks:
            self.shown = now
            judged = f"{progress.ticks} of {self.ticks} ticks judged on {progress.sites} sites"
            per_s = progress.ticks / (now - self.began)
            print(f"{self.begin}{judged}, {per_s:.0f} ticks/s", end=self.end, flush=True)


if __name__ == "__main__":
    sys.exit(main())
