"""Every file that is written, as it was reviewed; and scripts that shells and shellcheck accept."""

import subprocess
import sys
from pathlib import Path

import pytest
from golden_files import check_golden
from runs import Case, golden_cases

from launch.run_folder import render, write_run_folder

CASES = golden_cases()
FOLDER = Path("/runs/example")
each_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def of_the_run(case: Case) -> dict[str, str]:
    """Return the files, but for the package that is the same in all: a copy of the source."""
    files = render(case.run, FOLDER)
    return {name: text for name, text in files.items() if "/" not in name}


@each_case
def test_files_are_the_golden_ones(case: Case) -> None:
    for name, text in of_the_run(case).items():
        check_golden(f"launch/{case.name}/{name}", text)


@each_case
def test_no_golden_file_is_left_over(case: Case) -> None:
    """A file that is no longer written has no golden file either (test of `make golden`'s use)."""
    golden = Path(__file__).parent.parent / "golden" / "launch" / case.name
    assert {path.name for path in golden.iterdir()} == set(of_the_run(case))


@each_case
def test_scripts_pass_shellcheck_and_bash(case: Case, tmp_path: Path) -> None:
    write_run_folder(case.run, tmp_path / "run")
    scripts = sorted((tmp_path / "run").glob("*.sh"))
    shellcheck = Path(sys.executable).parent / "shellcheck"
    subprocess.run(
        [shellcheck, "--shell=bash", "--enable=quote-safe-variables", *scripts], check=True
    )
    for script in scripts:
        subprocess.run(["bash", "-n", script], check=True)


@each_case
def test_lines_end_without_spaces_and_files_with_one_newline(case: Case) -> None:
    for name, text in render(case.run, FOLDER).items():
        assert not any(line != line.rstrip() for line in text.splitlines()), name
        assert text.endswith("\n") and not text.endswith("\n\n"), name
