"""Numbers as people read them: at most three significant digits, one unit in the header."""

from planner.units import GIB, GIGA


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
