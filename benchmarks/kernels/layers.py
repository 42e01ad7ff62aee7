"""Times the parts of real models on one GPU, as ms-swift builds and trains them.

    python layers.py MODELS RESULTS --seconds S

MODELS is of `models.py`. Each result is one model fed with one pack: seconds of its steps, of its
parts on host and device, and of its kernels. Started again it goes on behind the last model.
Status 75: start it again, memory could not be given back.
"""

import argparse
import faulthandler
import json
import statistics
import sys
import tempfile
import time
import traceback
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from marks import Marks, attach
from traces import read

from measure.verify import peers
from measure.verify.rank import _give_back, prepare
from measure.verify.row import Row

COLD, WARM, MARKED = 2, 5, 3  # steps: not counted; timed alone; with marks
LONG_SECONDS = 0.6  # of a step: fewer are made
MOST_LEFT_BYTES = 2**28
TRY_AGAIN = 75


def main() -> None:
    """Read the arguments and measure."""
    parser = argparse.ArgumentParser()
    parser.add_argument("models", type=Path)
    parser.add_argument("results", type=Path)
    parser.add_argument("--seconds", type=float, default=1e9)
    arguments = parser.parse_args()
    end = time.monotonic() + arguments.seconds
    done = set()
    if arguments.results.exists():
        lines = arguments.results.read_text(encoding="utf-8").splitlines()
        done = {json.loads(line)["id"] for line in lines}
    models = [json.loads(line) for line in arguments.models.read_text("utf-8").splitlines()]
    models = [model for model in models if model["row"]["id"] not in done]
    if models:
        prepare()
    for model in models:
        if time.monotonic() > end - 8:
            break
        with arguments.results.open("a", encoding="utf-8") as file:
            measure_model(model, file, end)
        left = _give_back()["left"]
        if not left or left["allocated"] > MOST_LEFT_BYTES:
            sys.exit(TRY_AGAIN)


def measure_model(model: dict[str, Any], file: Any, end: float) -> None:
    """Measure one model with its packs, and write a line for each."""
    row = Row(**model["row"])
    started = time.monotonic()
    write(file, {"id": row.id, "started": True})
    faulthandler.dump_traceback_later(90, exit=True)
    try:
        peers.enter_world(row.world_size, row.rank)
        with tempfile.TemporaryDirectory() as folder:
            trainer, marks = build(row, Path(folder))
            write(file, {"id": row.id, "build_seconds": time.monotonic() - started})
            for tokens, documents, traced in model["packs"]:
                if time.monotonic() > end - 3:
                    break
                faulthandler.dump_traceback_later(60, exit=True)
                result = _pack(row, trainer, marks, tokens, documents, traced)
                write(file, {"id": row.id, **result})
                print(row.id, tokens, documents, result["step_seconds"], flush=True)
            forget(trainer)
    except (Exception, SystemExit) as error:
        write(file, {"id": row.id, "error": f"{type(error).__name__}: {error}"[:1500],
                      "where": traceback.format_exc()[-2500:]})  # fmt: skip
        print(row.id, "FAILED", str(error)[:300], flush=True)
        traceback.clear_frames(error.__traceback__)
    faulthandler.cancel_dump_traceback_later()


def write(file: Any, content: dict[str, Any]) -> None:
    """Add a line, at once."""
    file.write(json.dumps(content) + "\n")
    file.flush()


def build(row: Row, folder: Path) -> tuple[Any, Marks]:
    """The trainer of a row in the world that was entered, and the marks of its parts."""
    from measure.verify import run

    (folder / "config.json").write_text(json.dumps(row.config), encoding="utf-8")
    trainer = run.build(run.parse(row, folder))
    marks = Marks()
    attach(trainer.unwrapped_models, marks)
    forward_step = trainer.forward_step
    optimizer_step = trainer.optimizer.step

    def marked_forward(*args: Any) -> Any:
        marks("batch")
        return forward_step(*args)

    def marked_optimizer() -> Any:
        marks("optimizer>")
        answer = optimizer_step()
        marks("optimizer<")
        return answer

    trainer.forward_step, trainer.optimizer.step = marked_forward, marked_optimizer
    return trainer, marks


def _pack(
    row: Row, trainer: Any, marks: Marks, tokens: int, documents: int, traced: bool
) -> dict[str, Any]:
    from measure.verify import run

    trainer.args.seq_length = tokens
    data = run.feed(replace(row, documents_per_pack=documents), trainer)
    marks.kind = "off"
    seconds = [step(trainer, data, marks) for _ in range(COLD)]
    long = seconds[-1] > LONG_SECONDS
    warm = [step(trainer, data, marks) for _ in range(3 if long else WARM)]
    marks.kind = "timed"
    marked = [step(trainer, data, marks) for _ in range(1 if long else MARKED)]
    segments = marks.segments()
    marks.kind = "off"
    result = {
        "tokens": tokens,
        "documents": documents,
        "num_microbatches": trainer.args.num_microbatches,
        "cold_seconds": seconds,
        "step_seconds": statistics.median(warm),
        "warm_seconds": warm,
        "marked_seconds": marked,
        "segments": segments,
        "trained_parameters": sum(
            p.numel() for m in trainer.unwrapped_models for p in m.parameters() if p.requires_grad
        ),
    }
    if traced:
        result["trace"] = _traced(trainer, data, marks)
    return result


def step(trainer: Any, data: Any, marks: Marks) -> float:
    """Seconds of a step, from an idle GPU to an idle GPU."""
    torch.cuda.synchronize()
    started = time.monotonic()
    marks("step>")
    trainer.run_train_step(data, None)
    marks("step<")
    torch.cuda.synchronize()
    seconds = time.monotonic() - started
    if marks.kind == "timed":
        marks.end_step()
    return seconds


def _traced(trainer: Any, data: Any, marks: Marks) -> dict[str, Any]:
    both = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    path = Path(tempfile.gettempdir()) / "trace.json"
    marks.kind = "traced"
    try:
        with torch.profiler.profile(activities=both) as profile:
            step(trainer, data, marks)
        profile.export_chrome_trace(str(path))
        return read(path)
    except Exception as error:  # what was timed without it is kept
        return {"error": f"{type(error).__name__}: {error}"[:500]}
    finally:
        marks.kind = "off"
        path.unlink(missing_ok=True)


def forget(trainer: Any) -> None:
    """Let go of what would keep the trainer's memory."""
    from measure.verify import release

    release.forget_graphs(trainer.unwrapped_models)


if __name__ == "__main__":
    main()
