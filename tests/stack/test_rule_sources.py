"""Rules hold for the releases of megatron-core that have their condition, and for no other.

Two releases are installed, and test_rules.py runs them. Of the others the source is read.
"""

import ast
import zipfile
from functools import cache

import pytest

from planner.constraints import RULES
from planner.releases import releases, version_of
from planner.rule import NEVER, Rule
from stack import wheel

pytestmark = pytest.mark.stack

VERSIONS = ["0.15.3", "0.17.1", "0.18.2", "0.19.2"]
CONFIG = "transformer/transformer_config.py"

# The condition or statement behind a rule, as `ast.unparse` writes it, and the file that has it.
CONDITIONS: dict[str, tuple[str, str]] = {
    "world_dense": ("parallel_state.py", "world_size % model_size != 0"),
    "world_expert": (
        "parallel_state.py",
        "world_size % expert_tensor_model_pipeline_parallel_size != 0",
    ),
    "heads_tp": (CONFIG, "self.num_attention_heads % self.tensor_model_parallel_size != 0"),
    "query_groups_tp": (
        CONFIG,
        "self.num_query_groups % self.tensor_model_parallel_size != 0"
        " and self.tensor_model_parallel_size % self.num_query_groups != 0",
    ),
    "query_groups_tp_strict": (
        CONFIG,
        "self.num_query_groups % self.tensor_model_parallel_size != 0",
    ),
    "experts_ep": ("transformer/moe/moe_layer.py", "self.config.num_moe_experts % ep_size == 0"),
    "experts_without_ep": (
        "extensions/transformer_engine.py",
        "setattr(param, 'allreduce', not (is_expert and self.expert_parallel))",
    ),
    "layers": (
        "transformer/transformer_block.py",
        "num_layers % config.pipeline_model_parallel_size == 0",
    ),
    "vpp_pp": ("parallel_state.py", "not pipeline_model_parallel_size > 1"),
    "vpp_microbatches": (
        "pipeline_parallel/schedules.py",
        "config.microbatch_group_size_per_vp_stage > num_microbatches"
        " or config.microbatch_group_size_per_vp_stage < pipeline_parallel_size",
    ),
    "recompute_modules": (
        CONFIG,
        "invalid_modules = set(self.recompute_modules) - allowed_modules",
    ),
    "recompute_layernorm": (CONFIG, "self.cuda_graph_scope = None"),
    "recompute_mla": (
        CONFIG,
        "'mla_up_proj' in self.recompute_modules and (not self.multi_latent_attention)",
    ),
    "recompute_num_layers": (
        CONFIG,
        "self.recompute_granularity != 'selective' and self.recompute_num_layers is None",
    ),
}
HELD = [rule for rule in RULES if rule.id in CONDITIONS]


@cache
def conditions(version: str, file: str) -> frozenset[str]:
    """Return the tests of every `if` and `assert` of a file, its assignments and its calls."""
    with zipfile.ZipFile(wheel.megatron_core(version)) as archive:
        tree = ast.parse(archive.read(f"megatron/core/{file}"))
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If | ast.Assert):
            found.add(ast.unparse(node.test))
        elif isinstance(node, ast.Assign | ast.Expr):
            found.add(ast.unparse(node))
    return frozenset(found)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("rule", HELD, ids=[rule.id for rule in HELD])
def test_a_rule_holds_where_its_condition_is(rule: Rule, version: str) -> None:
    file, condition = CONDITIONS[rule.id]
    has = condition in conditions(version, file)
    assert (rule.since <= version_of(version) < rule.until) == has


def test_every_known_minor_release_is_installed_or_read() -> None:
    read = {version.rpartition(".")[0] for version in VERSIONS}
    assert set(releases().megatron_core) == read | {"0.16"}


def test_a_rule_that_names_releases_is_held_against_them() -> None:
    assert {rule.id for rule in RULES if any(rule.since) or rule.until != NEVER} <= set(CONDITIONS)
