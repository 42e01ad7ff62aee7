"""The adapter that fetches a config.json, against a real server on this machine."""

import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest

from measure.hub import download_config
from planner.errors import EnvironmentLacksError
from planner.model_files import resolve_model
from planner.yaml_files import MAX_FILE_BYTES
from tests.inputs.configs import QWEN3_8B

NAME = "Org/Model-8B"


class Hub(http.server.BaseHTTPRequestHandler):
    answers: ClassVar[dict[str, bytes]] = {}
    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.asked.append(self.path)
        content = self.answers.get(self.path)
        self.send_response(404 if content is None else 200)
        self.end_headers()
        self.wfile.write(content or b"")

    def log_message(self, *args: object) -> None:
        """Keeps the tests' output clean."""


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Hub]]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    url = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("HF_ENDPOINT", f"{url}/hf/")
    monkeypatch.setenv("MODELSCOPE_DOMAIN", f"{url}/ms")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    Hub.answers, Hub.asked = {}, []
    yield Hub
    server.shutdown()
    thread.join()
    server.server_close()


HUGGING_FACE = f"/hf/{NAME}/resolve/main/config.json"
MODEL_SCOPE = f"/ms/models/{NAME}/resolve/master/config.json"


@pytest.mark.parametrize("url", [HUGGING_FACE, MODEL_SCOPE])
def test_a_model_is_fetched_once_and_then_found_in_the_cache(
    hub: type[Hub], tmp_path: Path, url: str
) -> None:
    hub.answers[url] = json.dumps(QWEN3_8B).encode()

    first = resolve_model(NAME, download=download_config)
    asked = list(hub.asked)
    again = resolve_model(NAME, download=download_config)

    assert first == again and hub.asked == asked
    stored = [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()]
    assert stored == ["moe-planner/models/Org--Model-8B/config.json"]


@pytest.mark.parametrize(
    "content", [None, b"<html>", b"[]", b'{"hidden_size', b"\xff", b" " * (MAX_FILE_BYTES + 1)]
)
def test_an_answer_that_is_no_config_is_told_and_nothing_is_stored(
    hub: type[Hub], tmp_path: Path, content: bytes | None
) -> None:
    if content is not None:
        hub.answers[HUGGING_FACE] = content

    with pytest.raises(EnvironmentLacksError) as caught:
        download_config(NAME)

    assert hub.asked == [HUGGING_FACE, MODEL_SCOPE]
    assert NAME in caught.value.message and "\n" not in caught.value.message
    assert not list(tmp_path.rglob("*"))
