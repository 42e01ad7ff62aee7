"""One worker per megatron-core version, and the model folders that tests name."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from stack import models
from stack.real_stack import MEGATRON_CORES, RealStack


@pytest.fixture(scope="session")
def stacks() -> Iterator[dict[str, RealStack]]:
    """All workers, started together: while one is asked, the others import."""
    with ExitStack() as running:
        yield {version: running.enter_context(RealStack(version)) for version in MEGATRON_CORES}


@pytest.fixture(scope="session", params=MEGATRON_CORES)
def stack(request: pytest.FixtureRequest, stacks: dict[str, RealStack]) -> RealStack:
    """The real stack, under each megatron-core version in turn."""
    return stacks[request.param]


@pytest.fixture(scope="session")
def model_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The bundled models, each a folder with its config.json and a tokenizer."""
    root = tmp_path_factory.mktemp("models")
    return {
        path.stem: models.write_model(root / path.stem, models.bundled_config(path.stem))
        for path in sorted(models.BUNDLED.glob("*.json"))
    }


@pytest.fixture(scope="session")
def short_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The short models, each in a folder with the name of the one that it is made from."""
    root = tmp_path_factory.mktemp("short")
    return {
        name: models.write_model(root / name / base, models.short_config(name))
        for name, (base, _) in models.SHORT.items()
    }
