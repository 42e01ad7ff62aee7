"""The packages of the environment that this runs in."""

from importlib.metadata import distributions

from planner.freeze import Package, normalized


def installed_packages() -> tuple[Package, ...]:
    """Every distribution that Python finds, none imported; one found twice stands twice."""
    found = [(each.metadata["Name"], each.version) for each in distributions()]
    return tuple(Package(normalized(name), version or "") for name, version in found if name)
