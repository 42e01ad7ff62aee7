"""What a run folder remembers of its submission: written whole, read back, refused when spoiled."""

import errno
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launch.jobs import BackendName, parse_handle
from launch.submission import (
    NAME,
    Submission,
    new_id,
    read_submission,
    submitting,
    write_submission,
)
from planner.errors import PlannerError, UsageError

SUBMISSIONS = st.builds(
    Submission,
    backend=st.sampled_from(BackendName),
    id=st.text("0123456789abcdef", min_size=8, max_size=8),
    hosts=st.lists(st.text(min_size=1), max_size=3).map(tuple),
    handle=st.none() | st.text(),
    stopped=st.booleans(),
)


@given(submission=SUBMISSIONS)
def test_it_reads_back_as_it_was(
    tmp_path_factory: pytest.TempPathFactory, submission: Submission
) -> None:
    folder = tmp_path_factory.mktemp("run")
    write_submission(folder, submission)
    assert read_submission(folder) == submission
    assert [path.name for path in folder.iterdir()] == [NAME]


def test_before_the_first_there_is_none(tmp_path: Path) -> None:
    assert read_submission(tmp_path) is None


@pytest.mark.parametrize("content", ["", "{", "[]", '{"backend": "slurm", "id": "1"}', "\xff"])
def test_a_spoiled_one_is_refused_in_one_sentence(tmp_path: Path, content: str) -> None:
    (tmp_path / NAME).write_text(content, encoding="latin-1")
    with pytest.raises(UsageError) as refused:
        read_submission(tmp_path)
    assert str(tmp_path / NAME) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_nothing_is_started_where_it_cannot_be_written(tmp_path: Path) -> None:
    submission = Submission(backend=BackendName.HOSTS, id=new_id())
    with pytest.raises(UsageError, match="cannot be written"):
        write_submission(tmp_path / "nowhere", submission)


def test_a_submission_keeps_others_away_until_it_is_over(tmp_path: Path) -> None:
    refused = pytest.raises(UsageError, match="another moe-launch submits")
    with submitting(tmp_path), refused, submitting(tmp_path):
        pass
    with submitting(tmp_path):
        pass


def test_storage_without_locks_keeps_nobody_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "no locks")

    monkeypatch.setattr("fcntl.flock", no_locks)
    with submitting(tmp_path), submitting(tmp_path):
        pass


@given(st.text())
def test_any_text_is_a_handle_or_refused(text: str) -> None:
    try:
        handle = parse_handle(text)
    except PlannerError as error:
        assert "\n" not in str(error)
    else:
        assert str(handle) == text


def test_ids_are_words_that_every_backend_takes() -> None:
    assert all(new_id().isalnum() for _ in range(100))
