"""`./run bench [sharing|core|station|garage|simulation]`: tables for the README; two have options."""

import sys

from tests.benchmarks import core, garage, sharing, simulation, station


def main() -> int:
    """Run one benchmark or all and print what they measured."""
    suites = {
        "sharing": sharing.report,
        "core": core.report,
        "station": station.report,
        "garage": garage.report,
        "simulation": simulation.report,
    }
    names = sys.argv[1:] or list(suites)
    if names[0] in ("garage", "sharing"):
        print(f"measured on {station.machine()}")
        return garage.main(names[1:]) if names[0] == "garage" else sharing.main(names[1:])
    unknown = [name for name in names if name not in suites]
    if unknown:
        print(f"no benchmark {unknown[0]!r}; there are: {', '.join(suites)}", file=sys.stderr)
        return 2
    print(f"measured on {station.machine()}\n")
    print("| what | measured | target |\n|---|---|---|")
    for name in names:
        for what, result, target in suites[name]():
            print(f"| {what} | {result} | {target} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
