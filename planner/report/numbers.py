"""Numbers as people read them: at most three significant digits, one unit in the header."""

from planner.units import GIB, GIGA, MICRO, TERA

# base units as people read them: what one of theirs is worth, its name and the digits
_SHOWN: dict[str, tuple[float, str, str]] = {
    "bytes": (GIB, "GiB", ".1f"),
    "bytes/s": (GIGA, "GB/s", ".5g"),
    "bits/s": (GIGA, "Gbit/s", ".5g"),
    "FLOP/s": (TERA, "TFLOP/s", ".5g"),
    "seconds": (MICRO, "us", ".5g"),
}


def gib(size_bytes: float) -> str:
    """GiB with one decimal."""
    return f"{size_bytes / GIB:.1f}"


def billions(count: float) -> str:
    """Billions with one decimal, for example 30.5B; millions below that."""
    return f"{count / GIGA:.1f}B" if count >= GIGA else f"{count / 1e6:.0f}M"


def seconds(value: float) -> str:
    """Seconds with three significant digits."""
    return f"{value:#.3g}" if value < 100 else f"{value:.0f}"


def bar(fraction: float, width: int = 7) -> str:
    """How full something is, for example `#####..`."""
    filled = min(width, round(fraction * width))
    return "#" * filled + "." * (width - filled)


def percent(fraction: float) -> str:
    """A fraction in percent with one decimal."""
    return f"{100 * fraction:.1f} %"


def with_unit(value: object, unit: str) -> str:
    """An assumed value in units that people use, for example 450 GB/s."""
    if isinstance(value, int | float) and unit in _SHOWN:
        worth, shown, digits = _SHOWN[unit]
        return f"{value / worth:{digits}} {shown}"
    if isinstance(value, float) and value == int(value):
        value = int(value)
    return f"{value} {unit}".rstrip()
