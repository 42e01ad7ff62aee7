"""Settings of all tests."""

import importlib
import os
from pathlib import Path

from hypothesis import settings

# No test depends on how fast the machine is. The same examples every time, so that a failure is of
# the change under test; HYPOTHESIS_PROFILE=explore draws others.
settings.register_profile("planner", deadline=None, derandomize=True)
settings.register_profile("explore", deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "planner"))

PACKAGES = ("planner", "planner.report", "launch", "convert", "measure", "topologies")


def pytest_configure() -> None:
    """With MOE_PLANNER_INSTALLED the tests are of what is installed there, not of the checkout."""
    installed = os.environ.get("MOE_PLANNER_INSTALLED")
    for name in PACKAGES if installed else ():
        module = importlib.import_module(name)
        assert Path(str(module.__file__)).is_relative_to(str(installed)), module
