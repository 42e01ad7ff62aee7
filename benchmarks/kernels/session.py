"""Times layers, what is recomputed and the host in one go on one GPU, what matters most first.

    python session.py JOBS FOLDER NAME --seconds S

JOBS is of `jobs.py`. Writes FOLDER/layers_NAME.jsonl, recompute_NAME.jsonl and host_NAME.jsonl.
Before every job the host is looked at, so that how it wanders is known. Started again, it goes on
behind the last job that was begun. Status 75: start it again, memory could not be given back.
"""

import argparse
import faulthandler
import json
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import layers
import recompute
import torch

from measure.verify import fused_gradients, peers
from measure.verify.host_speed import HostSpeed
from measure.verify.rank import _give_back, prepare
from measure.verify.row import Row

BEGAN = time.monotonic()
LEAST_SECONDS = 12  # a job that has less is not begun
MOST_SECONDS = 100  # of a job that is stuck


def main() -> None:
    """Read the arguments and measure."""
    parser = argparse.ArgumentParser()
    parser.add_argument("jobs", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("name")
    parser.add_argument("--seconds", type=float, default=1e9)
    arguments = parser.parse_args()
    end = time.monotonic() + arguments.seconds
    pages = {
        kind: arguments.folder / f"{kind}_{arguments.name}.jsonl"
        for kind in ("layers", "recompute", "host")
    }
    jobs = [json.loads(line) for line in arguments.jobs.read_text("utf-8").splitlines()]
    begun = {each["job"] for each in _lines(pages["host"]) if "job" in each}
    left = [job for job in jobs if job["name"] not in begun]
    if not left:
        return
    peers.enter_world(1, 0)  # before the stack is imported
    fused_gradients.stand_in()
    host = HostSpeed()
    _add(pages["host"], {"device": torch.cuda.get_device_name(), "torch": torch.__version__})
    for job in left:
        if time.monotonic() > end - LEAST_SECONDS:
            break
        _add(pages["host"], {"job": job["name"], **_now(), **host.look()})
        started = time.monotonic()
        _do(job, pages, end)
        print(f"{job['name']}: {time.monotonic() - started:.1f} s", flush=True)
        kept = _give_back()["left"]
        if not kept or kept["allocated"] > layers.MOST_LEFT_BYTES:
            sys.exit(layers.TRY_AGAIN)
    _add(pages["host"], {"job": "end", **_now(), **host.look()})


def _lines(page: Path) -> list[dict[str, Any]]:
    text = page.read_text(encoding="utf-8") if page.exists() else ""
    return [json.loads(line) for line in text.splitlines()]


def _add(page: Path, content: dict[str, Any]) -> None:
    with page.open("a", encoding="utf-8") as file:
        layers.write(file, content)


def _now() -> dict[str, float]:
    return {"at": round(time.monotonic() - BEGAN, 2)}


def _do(job: dict[str, Any], pages: dict[str, Path], end: float) -> None:
    with pages[job["kind"]].open("a", encoding="utf-8") as file:
        if job["kind"] == "layers":
            layers.measure_model(job, file, end)
            return
        prepare()  # compiles for up to a minute, once; `layers` alone does not need it
        faulthandler.dump_traceback_later(MOST_SECONDS, exit=True)
        rounds = [
            recompute.Rounds(tokens=tokens, choices=tuple(choices), number=number)
            for tokens, choices, number in job["rounds"]
        ]
        try:
            for result in recompute.measure(Row(**job["row"]), rounds, end):
                layers.write(file, {"job": job["name"], **result})
        except (Exception, SystemExit) as error:  # the next job must go on
            where = traceback.format_exc()[-2500:]
            layers.write(file, {"job": job["name"], "error": repr(error)[:1500], "where": where})
            print(job["name"], "FAILED", str(error)[:300], flush=True)
            traceback.clear_frames(error.__traceback__)
        faulthandler.cancel_dump_traceback_later()


if __name__ == "__main__":
    main()
