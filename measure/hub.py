"""Fetches the config.json of a model from a hub: the only part of the planner that uses a network.

Loaded when the user asks for it with --allow-download, and never otherwise.
"""

import json
import os
import tempfile
import urllib.error
import urllib.request
from pathlib import Path

from planner.errors import EnvironmentLacksError
from planner.model_files import CONFIG_NAME, planner_cache
from planner.yaml_files import MAX_FILE_BYTES

TIMEOUT_SECONDS = 20


def hub_urls(hub_id: str) -> tuple[str, ...]:
    """Where a model's config.json is published: on Hugging Face, then on ModelScope.

    HF_ENDPOINT and MODELSCOPE_DOMAIN name mirrors, as for these hubs' own clients.
    """
    hugging_face = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    model_scope = os.environ.get("MODELSCOPE_DOMAIN", "www.modelscope.cn").rstrip("/")
    if not model_scope.startswith(("http://", "https://")):
        model_scope = f"https://{model_scope}"
    return (
        f"{hugging_face}/{hub_id}/resolve/main/{CONFIG_NAME}",
        f"{model_scope}/models/{hub_id}/resolve/master/{CONFIG_NAME}",
    )


def download_config(hub_id: str) -> Path:
    """The path of a freshly fetched config.json in the planner's cache; nothing else is stored.

    Raises EnvironmentLacksError (model.download_failed) when no hub gives a JSON object.
    """
    reasons = []
    for url in hub_urls(hub_id):
        try:
            return _store(hub_id, _fetch(url))
        except (OSError, ValueError) as error:  # URLError and HTTPError are OSErrors
            reasons.append(f"{url}: {error}")
    raise EnvironmentLacksError("model.download_failed", name=hub_id, reasons="; ".join(reasons))


def _fetch(url: str) -> bytes:
    """The answer of a hub, checked to be a JSON object."""
    with urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS) as answer:
        content: bytes = answer.read(MAX_FILE_BYTES + 1)
    if len(content) > MAX_FILE_BYTES:
        raise ValueError(f"larger than {MAX_FILE_BYTES} bytes")
    if not isinstance(json.loads(content), dict):
        raise ValueError("not a JSON object")
    return content


def _store(hub_id: str, content: bytes) -> Path:
    """Writes a config.json whole or not at all."""
    folder = planner_cache() / hub_id.replace("/", "--")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=folder, delete=False) as file:
        file.write(content)
    path = folder / CONFIG_NAME
    os.replace(file.name, path)
    return path
