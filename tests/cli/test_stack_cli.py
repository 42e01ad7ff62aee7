"""`plan stack list` and `plan stack detect`: what a person reads, JSON, and the file."""

from pathlib import Path

import pytest
from console import Ran, plan
from golden_files import check_screen

from planner.detection import CAPABILITIES, VERSIONS
from planner.stack import known_stacks, load_stack

# An image as people have them: built from source here and there, and one package too new.
FREEZE = """\
apex @ file:///wheels/apex-0.1-cp312-cp312-linux_x86_64.whl
flash_attn==2.8.3
flash-linear-attention==0.4.0
mcore-bridge==1.6.3
megatron-core==0.20.0
ms-swift==4.5.3
torch==2.11.0+cu130
transformer_engine @ git+https://github.com/NVIDIA/TransformerEngine.git@v2.16
"""
SCREENS = {
    "stack-list": ("list",),
    "stack-detect": ("detect", "--freeze", "pip.txt"),
    "stack-detect-nothing": ("detect", "--freeze", "other.txt"),
}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder that commands run in."""
    (tmp_path / "pip.txt").write_text(FREEZE)
    (tmp_path / "other.txt").write_text("numpy==2.4.6\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("columns", [80, 100])
@pytest.mark.parametrize("name", SCREENS)
def test_golden_text(name: str, columns: int) -> None:
    check_screen(name, ("stack", *SCREENS[name]), columns)


def test_the_list_is_of_all_stacks_in_full() -> None:
    stacks = plan("stack", "list", "--json").answer["stacks"]
    assert [stack["name"] for stack in stacks] == known_stacks()
    for stack in stacks:
        known = load_stack(stack["name"])
        assert (stack["megatron_core"], stack["sources"]) == (known.megatron_core, known.sources)


def test_json_says_what_is_there_and_what_is_not() -> None:
    answer = plan("stack", "detect", "--freeze", "pip.txt", "--json").answer
    assert (answer["origin"], answer["nearest"]) == ("pip.txt", "ms-swift-4.5")
    assert set(answer["versions"]) == set(VERSIONS)
    assert answer["versions"]["megatron_core"] == "0.20.0"
    assert set(answer["capabilities"]) == {each.id for each in CAPABILITIES}
    assert answer["capabilities"]["deep_ep"]["version"] is None
    assert answer["differences"] == [
        {"field": "megatron_core", "here": "0.20.0", "there": "0.18.0"},
        {"field": "transformer_engine", "here": "2.16", "there": "2.16.0"},
    ]
    assert [each["permitted"] for each in answer["out_of_range"]] == [">=0.16,<0.20"]


def detect(*words: str) -> Ran:
    return plan("stack", "detect", "--freeze", "pip.txt", *words)


def test_the_file_is_a_stack_to_plan_with(folder: Path) -> None:
    ran = detect("--output", "image.yaml")
    assert ran.out.endswith(
        "Written    image.yaml\nNext       plan --stack image.yaml --gpus N --model MODEL\n"
    )
    stack = load_stack(str(folder / "image.yaml"))
    assert (stack.name, stack.megatron_core, stack.torch) == ("image", "0.20.0", "2.11.0+cu130")

    answer = plan(
        "--gpus", "8", "--model", "Qwen3-30B-A3B", "--stack", "image.yaml", "--json"
    ).answer
    assert answer["inputs"]["stack"]["ms_swift"] == "4.5.3"
    told = {each["id"]: each["value"] for each in answer["assumptions"]}
    assert told["stack.out_of_range.megatron-core"] == "0.20.0"
    assert told["stack.allocator_setting"] == "expandable_segments:True"


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("image", "./image"),
        ("my image.yml", "'my image.yml'"),
        ("sub/image", "sub/image"),
        ("a\x1b.yaml", "$'a\\x1b.yaml'"),
    ],
)
def test_what_comes_next_names_the_file_as_stack_reads_it(
    folder: Path, name: str, shown: str
) -> None:
    (folder / "sub").mkdir()
    ran = detect("--output", name)
    assert ran.out.endswith(f"Next       plan --stack {shown} --gpus N --model MODEL\n")


def test_a_list_with_a_strange_name_is_shown_on_one_line(folder: Path) -> None:
    name = "a\nb\x1b[31m.txt"
    (folder / name).write_text(FREEZE)
    ran = plan("stack", "detect", "--freeze", name)
    assert ran.status == 0 and "\x1b" not in ran.out
    assert plan("stack", "detect", "--freeze", name, "--output", "image.yaml").status == 0
    assert load_stack("./image.yaml").ms_swift == "4.5.3"


def test_this_environment_is_read_without_a_list() -> None:
    answer = plan("stack", "detect", "--json").answer
    assert (answer["origin"], answer["versions"]["ms_swift"]) == ("this environment", "4.6.0")


def test_nothing_is_written_over(folder: Path) -> None:
    (folder / "image.yaml").write_text("mine")
    ran = detect("--output", "image.yaml")
    assert (ran.status, ran.out) == (2, "")
    assert "image.yaml exists already" in ran.err
    assert (folder / "image.yaml").read_text() == "mine"


MISTAKES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "no command": ((), ("missing command", "plan stack --help")),
    "an unknown command": (("show",), ("no such command 'show'",)),
    "a missing list": (("detect", "--freeze", "none.txt"), ("none.txt", "no such file")),
    "a folder": (("detect", "--freeze", "."), (". cannot be read",)),
    "no package": (("detect", "--freeze", "empty.txt"), ("empty.txt names no package", "pip list")),
    "no ms-swift": (
        ("detect", "--freeze", "other.txt", "--output", "i.yaml"),
        ("other.txt does not say the version of ms-swift and megatron-core", "based_on:"),
    ),
    "an old ms-swift": (
        ("detect", "--freeze", "old.txt", "--output", "i.yaml"),
        ("3.9.3 is older than 3.12", "use ms-swift 3.12 or later"),
    ),
    "a folder that is not there": (
        ("detect", "--freeze", "pip.txt", "--output", "none/i.yaml"),
        ("none/i.yaml cannot be written: no such file",),
    ),
    "a name that cannot be": (
        ("detect", "--freeze", "pip.txt", "--output", "a\0b"),
        ("null byte",),
    ),
    "an old flag": (("detect", "--max_epochs", "3"), ("--num_train_epochs",)),
}


@pytest.mark.parametrize("as_json", [False, True])
@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line_and_writes_nothing(name: str, as_json: bool, folder: Path) -> None:
    words, says = MISTAKES[name]
    (folder / "empty.txt").write_text("nothing here\n")
    (folder / "old.txt").write_text("ms-swift==3.9.3\nmegatron-core==0.14.0\n")
    before = sorted(folder.iterdir())
    ran = plan("stack", *words, *(["--json"] if as_json and words[:1] == ("detect",) else []))
    assert ran.status == 2 and sorted(folder.iterdir()) == before
    if ran.err:
        assert ran.out == "" and ran.err.startswith("error: ") and len(ran.err.splitlines()) == 1
    error = None if ran.err else ran.answer["error"]
    told = ran.err or f"{error['message']} {error['fix']}"
    assert [part for part in says if part not in told] == []
