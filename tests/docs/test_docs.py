"""README and documents say what the program does."""

import importlib.util
import os
import re
import shlex
import sys
import tempfile
from pathlib import Path
from types import ModuleType

import pytest
import trust
import typer
from console import EXAMPLE, plan

from launch.cli import app
from planner.site import load_site

ROOT = Path(__file__).parent.parent.parent
README = ROOT / "README.md"
DOCUMENTS = [README, *sorted(ROOT.glob("docs/*.md")), *sorted(ROOT.glob("benchmarks/**/*.md"))]


def load_generate() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_generate", ROOT / "docs" / "generate.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


generate = load_generate()


@pytest.mark.parametrize("name", generate.PAGES)
def test_generated_documents_are_current(name: str) -> None:
    """`python docs/generate.py` writes them."""
    assert (ROOT / "docs" / name).read_text(encoding="utf-8") == generate.PAGES[name]()


def test_golden_output_in_the_readme() -> None:
    """`make golden` writes it."""
    command = f"plan {' '.join(EXAMPLE)}"
    text = README.read_text(encoding="utf-8")
    start, end = f"<!-- output: {command} -->\n", "<!-- end -->\n"
    before, _, rest = text.partition(start)
    pasted, _, after = rest.partition(end)
    assert before and after, "the markers are missing"
    current = f"```\n$ {command}\n{plan(*EXAMPLE, columns=100).out}```\n"
    if os.environ.get("WRITE_GOLDEN") == "1":
        README.write_text(f"{before}{start}{current}{end}{after}", encoding="utf-8")
    else:
        assert pasted == current, "the output in README.md is old: `make golden`"


def test_figures_of_errors_in_the_readme() -> None:
    """`benchmarks/trust.py` writes them."""
    assert f"{trust.START}{trust.text()}{trust.END}" in README.read_text(encoding="utf-8")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_of_documents_lead_somewhere(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+)", text):
        if "://" not in target:
            assert (document.parent / target).exists(), target


def test_every_module_of_the_planner_is_in_the_architecture() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    modules = {path.name for path in (ROOT / "planner").glob("*.py")} - {"__init__.py"}
    assert {name for name in modules if name not in text} == set()


def test_commands_of_the_readme_are_commands(tmp_path: Path) -> None:
    """Every `plan` line of the README works, but that its runs go elsewhere."""
    text = README.read_text(encoding="utf-8").replace("\\\n", "")
    lines = re.findall(r"^plan (--gpus [^#\n]*|check [^#\n]*)", text, re.MULTILINE)
    assert len(lines) == 7
    for line in lines:
        words = shlex.split(line)
        if "--output-dir" in words:
            words[words.index("--output-dir") + 1] = str(tmp_path / "run")
        assert plan(*words).status == 0


def test_launching_in_the_readme_is_of_real_commands_and_options() -> None:
    """Both backends: every `moe-launch` line is parsed, and the site file is one."""
    text = README.read_text(encoding="utf-8")
    known = typer.main.get_command(app).commands  # type: ignore[attr-defined]  # it is a group
    lines = re.findall(r"^moe-launch ([^#\n]*)", text, re.MULTILINE)
    assert {line.split()[0] for line in lines} == {"doctor", "submit", "watch", "logs", "status"}
    for line in lines:
        name, *words = line.split()
        known[name].make_context(name, words)
    site = text.split("cat > site.yaml <<'END'\n")[1].split("END\n")[0]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "site.yaml"
        path.write_text(site)
        assert load_site(path).dlc.workspace_id == "1234"
