"""Which stack an image holds: its versions, the known stack that is nearest, and what it can do."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from planner.errors import UsageError
from planner.freeze import Package
from planner.messages import MESSAGES
from planner.releases import (
    OutOfRange,
    Version,
    minor_of,
    others_out_of_range,
    out_of_range,
    releases,
    version_of,
)
from planner.stack import DEFAULT_STACK, Stack, known_stacks, load_stack

# The distributions that are a field of a stack. The nearest known stack is the one that differs in
# the fewest, ms-swift's and megatron-core's minor releases first.
VERSIONS: dict[str, tuple[str, ...]] = {
    "ms_swift": ("ms-swift",),
    "mcore_bridge": ("mcore-bridge",),
    "megatron_core": ("megatron-core",),
    "transformer_engine": ("transformer-engine", "transformer-engine-torch"),
    "torch": ("torch",),
    "flash_attention": ("flash-attn", "flash-attn-3", "flash-attn-4"),
}
REQUIRED = ("ms_swift", "megatron_core")
_GO_TOGETHER = ("ms_swift", "mcore_bridge", "megatron_core")


@dataclass(frozen=True, slots=True, kw_only=True)
class Capability:
    """A package that decides what training can do, and what follows where it is or is not there."""

    id: str
    distributions: tuple[str, ...]
    there: str
    missing: str
    source: str


CAPABILITIES = (
    Capability(
        id="transformer_engine",
        distributions=VERSIONS["transformer_engine"],
        there="what every layer is made of",
        missing="Megatron-SWIFT does not start",
        source="mcore-bridge 1.6.5, mcore_bridge/patcher.py:32",
    ),
    Capability(
        id="apex",
        distributions=("apex",),
        there="gradient_accumulation_fusion, if it was built with its CUDA extensions",
        missing="ms-swift turns gradient_accumulation_fusion off",
        source="ms-swift 4.6.0, swift/megatron/arguments/megatron_args.py:902-907",
    ),
    Capability(
        id="flash_attention",
        distributions=VERSIONS["flash_attention"],
        there="attention_backend flash, ms-swift's default",
        missing="attention_backend flash, ms-swift's default, is refused; auto takes cuDNN's",
        source="planner/data/stacks/gpu-kit-2026-11.yaml",
    ),
    Capability(
        id="deep_ep",
        distributions=("deep-ep",),
        there="moe_token_dispatcher_type flex, with moe_enable_deepep",
        missing="no moe_token_dispatcher_type flex",
        source="megatron-core 0.16.1, megatron/core/transformer/moe/fused_a2a.py:9",
    ),
    Capability(
        id="emerging_optimizers",
        distributions=("emerging-optimizers",),
        there="optimizer muon; from megatron-core 0.18 on it needs 0.2",
        missing="optimizer muon is refused",
        source="megatron-core 0.16.1, optimizer/muon.py:188; 0.18.1, optimizer/__init__.py:45",
    ),
    Capability(
        id="flash_linear_attention",
        distributions=("flash-linear-attention", "fla-core"),
        there="the gated delta nets of Qwen3-Next and Qwen3.5",
        missing="Qwen3-Next and Qwen3.5 do not train: their gated delta nets need it",
        source="megatron-core 0.16.1, megatron/core/ssm/gated_delta_net.py:103",
    ),
)
# PyPI's package of this name is another: 0.9.10. NVIDIA's calls itself 0.1.
_NOT_NVIDIAS_APEX: Version = (0, 9)


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A field in which an image is not the nearest known stack."""

    field: str
    here: str | bool
    there: str | bool


@dataclass(frozen=True, slots=True)
class Note:
    """A sentence of `planner.messages` with its values."""

    message_id: str
    values: dict[str, Any]

    @property
    def text(self) -> str:
        """The sentence."""
        return MESSAGES[self.message_id].text.format_map(self.values)


@dataclass(frozen=True, slots=True, kw_only=True)
class Detection:
    """What an image holds. A version is None where the package is missing, empty where it is there
    and does not say which."""

    origin: str
    versions: dict[str, str | None]
    capabilities: dict[str, str | None]  # the version, by id
    nearest: Stack
    differences: list[Difference]
    out_of_range: list[OutOfRange]
    notes: list[Note]


def detect(packages: tuple[Package, ...], *, origin: str) -> Detection:
    """What the packages of an image are; `origin` names where they were read."""
    versions = {field: _version(packages, names) for field, names in VERSIONS.items()}
    capabilities = {each.id: _version(packages, each.distributions) for each in CAPABILITIES}
    notes = list(_notes(packages, versions))
    if version_of(capabilities["apex"] or "") >= _NOT_NVIDIAS_APEX:
        notes.append(Note("image.another_apex", {"version": capabilities["apex"]}))
        capabilities["apex"] = None
    here = {**versions, "apex": capabilities["apex"] is not None}
    # of several at the same distance the default one
    names = sorted(known_stacks(), key=lambda name: name != DEFAULT_STACK)
    stacks = [load_stack(name) for name in names]
    nearest = min(stacks, key=lambda stack: _distance(here, stack))
    stack_versions = {name: version or "" for name, version in versions.items()}
    beside = {package.name: package.version for package in packages}
    return Detection(
        origin=origin,
        versions=versions,
        capabilities=capabilities,
        nearest=nearest,
        differences=list(_differences(here, nearest)),
        out_of_range=[
            *out_of_range(*(stack_versions[name] for name in _GO_TOGETHER)),
            *others_out_of_range(stack_versions["ms_swift"], beside),
        ],
        notes=notes,
    )


def unknown_versions(found: Detection) -> list[str]:
    """The packages whose version a stack needs and the image does not say."""
    return [VERSIONS[field][0] for field in REQUIRED if not version_of(found.versions[field] or "")]


def check_complete(found: Detection) -> None:
    """Refuse to make a stack of an image that cannot train or whose release is not known.

    Raises UsageError: stack.incomplete, stack.too_old.
    """
    if unknown := unknown_versions(found):
        raise UsageError("stack.incomplete", path=found.origin, packages=" and ".join(unknown))
    oldest, version = _oldest(), found.versions["ms_swift"] or ""
    if version_of(version) < version_of(oldest):
        raise UsageError("stack.too_old", path=found.origin, version=version, oldest=oldest)


def _version(packages: tuple[Package, ...], names: tuple[str, ...]) -> str | None:
    """The version of the first of some distributions that is there; one that is said, if any."""
    found = [package for name in names for package in packages if package.name == name]
    said = [package.version for package in found if package.version]
    return said[0] if said else "" if found else None


def _distance(here: dict[str, Any], stack: Stack) -> tuple[Any, ...]:
    """How far an image is from a stack: release of ms-swift, of megatron-core, differing fields."""
    return (
        _apart(here["ms_swift"], stack.ms_swift),
        _apart(here["megatron_core"], stack.megatron_core),
        len(list(_differences(here, stack))),
    )


def _apart(version: str | None, other: str) -> int:
    """How far two minor releases are from each other, a major one further than any minor one."""
    numbers, others = version_of(version or ""), version_of(other)
    if not numbers:
        return 0
    return abs(1000 * (numbers[0] - others[0]) + (*numbers, 0)[1] - others[1])


def _differences(here: dict[str, Any], stack: Stack) -> Iterator[Difference]:
    for field, value in here.items():
        there = getattr(stack, field)
        if isinstance(value, bool):
            same = value == there
        else:  # cu130 and the like are how it was built
            same = (value or "").partition("+")[0] == there.partition("+")[0]
        if not same:
            yield Difference(field=field, here="" if value is None else value, there=there)


def _notes(packages: tuple[Package, ...], versions: dict[str, str | None]) -> Iterator[Note]:
    """What is wrong with an image, beside versions that do not go together."""
    for field in REQUIRED:
        if versions[field] is None:
            yield Note("image.not_there", {"package": VERSIONS[field][0]})
        elif not version_of(versions[field] or ""):
            yield Note("image.no_version", {"package": VERSIONS[field][0]})
    if release := _release_note(versions["ms_swift"] or ""):
        yield release
    named = {name for names in VERSIONS.values() for name in names}
    of_name = defaultdict(set)
    for package in packages:
        if package.name in named and package.version:
            of_name[package.name].add(package.version)
    for name, several in of_name.items():
        if len(several) > 1:
            yield Note("image.twice", {"package": name, "versions": " and ".join(sorted(several))})


def _release_note(version: str) -> Note | None:
    """What is not known of a version of ms-swift."""
    known, numbers = releases().ms_swift, version_of(version)
    release = known.get(minor_of(version))
    if release is not None:
        if numbers[:3] == version_of(release.newest):
            return None
        return Note("image.other_patch", {"version": version, "newest": release.newest})
    if numbers and numbers < version_of(_oldest()):
        return Note("image.too_old", {"version": version, "oldest": _oldest()})
    newest = list(known)[-1]
    return (
        Note("image.unknown_release", {"version": version, "newest": newest}) if numbers else None
    )


def _oldest() -> str:
    return next(iter(releases().ms_swift))
