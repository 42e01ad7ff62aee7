"""Logs are read as real releases write them; those of ms-swift 4.6 are in test_end_to_end.py."""

import zipfile
from pathlib import Path

import pytest

from measure.calibrate.log_file import read_log
from stack import wheel

pytestmark = pytest.mark.stack


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of importing torch and megatron-core
def test_timers_as_megatron_core_prints_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the smallest and largest of all ranks, or the largest only."""
    from megatron.core.timers import Timers

    timers = Timers(2, "minmax")
    times = {"forward-backward": (1137.65, 1138.6), "batch-generator": (10.5, 212.57)}
    monkeypatch.setattr(timers, "_get_global_min_max_time", lambda *_: times)
    for max_only in (False, True):
        printed = timers._get_global_min_max_time_string(list(times), True, False, 1.0, max_only)
        path = tmp_path / "log"
        path.write_text(f" iteration        2/       9 | loss scale: 1.0 |\n{printed}\n")
        assert read_log(path).timers_seconds == pytest.approx(
            {"forward-backward": 1.1386, "batch-generator": 0.21257}
        )


NAMES_OF_3_12 = (
    "logs['elapsed_time_per_iteration'] = ",
    "logs['memory(GiB)'] = memory_GiB",
    "logs['global_step/max_steps'] = f'{iteration}/{args.train_iters}'",
    "' elapsed time per iteration (ms): {:.1f} |'",
    "' iteration {:8d}/{:8d} |'",
    "memory_GiB = round(torch.cuda.max_memory_reserved() / 1024**3, 2)",
)


def test_ms_swift_3_12_has_the_names_that_are_read() -> None:
    with zipfile.ZipFile(wheel.wheel("3.12")) as file:
        source = file.read("swift/megatron/trainers/base.py").decode()
    assert [name for name in NAMES_OF_3_12 if name not in source] == []
