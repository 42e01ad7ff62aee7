"""Prints tests, seconds and skips of each suite of pytest's junit files; fails on any skip."""

import sys
import xml.etree.ElementTree as ElementTree
from collections import defaultdict
from pathlib import Path


def main() -> int:
    """The exit status: 1 when a test was skipped."""
    skipped = 0
    for report in map(Path, sys.argv[1:]):
        suites: dict[str, list[float]] = defaultdict(lambda: [0, 0.0, 0])
        for case in ElementTree.parse(report).iter("testcase"):
            parts = case.get("classname", "").split(".")
            suite = suites[parts[1] if len(parts) > 2 else parts[-1]]
            suite[0] += 1
            suite[1] += float(case.get("time", 0))
            suite[2] += case.find("skipped") is not None
        for name, (tests, seconds, skips) in sorted(suites.items()):
            counts = f"{tests:5.0f} tests {seconds:7.1f} s {skips:3.0f} skipped"
            print(f"{report.stem:<12} {name:<20} {counts}")
            skipped += int(skips)
    print(f"{skipped} skipped in all")
    return 1 if skipped else 0


if __name__ == "__main__":
    sys.exit(main())
