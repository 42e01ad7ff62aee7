"""The topology file that a calibration is written to."""

import os
from pathlib import Path

import yaml

from measure.calibrate.fit import Fit
from planner.topology_files import TOPOLOGIES_FOLDER, topology_path

DIGITS = 4  # of a factor
LEAST_CHANGE = 0.005  # of a factor that the logs hardly tell; less is not written
HEAD = "# Written by `plan calibrate`: factors on what is predicted. docs/calibration.md\n"


def overlay_text(fit: Fit, topology: str, output: Path | None, source: str) -> str:
    """A topology file `like` the one that the runs were predicted on, with the factors of a fit.

    `output` is where it will lie; a file that comes with the planner is named, another is found
    from there by its path.
    """
    path = topology_path(topology)
    if path.parent == TOPOLOGIES_FOLDER:
        like = path.stem
    else:
        like = os.path.relpath(path, output.parent if output else Path.cwd())
        like = like if "/" in like else f"./{like}"
    factors = {
        each.name: {
            "value": float(f"{each.after:.{DIGITS}g}"),
            "source": f"{source}; {each.low:.2f} to {each.high:.2f}"
            + ("" if each.told else ", hardly told by them"),
        }
        for each in fit.factors
        if each.told or abs(each.after / each.before - 1) >= LEAST_CHANGE
    }
    content = {"like": like, "calibration": factors}
    return HEAD + str(yaml.safe_dump(content, sort_keys=False, width=1000))
