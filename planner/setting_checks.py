"""The checks behind the rules of settings, as those of `planner.checks`."""

from planner.checks import Values, largest_divisor
from planner.pipeline_layout import layout_chunks
from planner.precision import FP8_RECIPES, fp8_recipe
from planner.problem import Problem, Sizes
from planner.settings import SPLIT_FLAGS, Settings


def uneven_pipeline(problem: Problem, sizes: Sizes) -> Values | None:
    """First and last stages of their own need a pipeline."""
    if sizes.pp > 1 or not _uneven(problem.settings):
        return None
    return {"flags": " and ".join(_uneven(problem.settings))}


def _uneven(settings: Settings) -> list[str]:
    return [name for name in SPLIT_FLAGS[:2] if getattr(settings, name) is not None]


def _accounted(settings: Settings) -> list[str]:
    return [name for name in SPLIT_FLAGS[2:4] if getattr(settings, name)]


def uneven_accounted(problem: Problem, sizes: Sizes) -> Values | None:
    """A first or last stage of its own is counted in layers alone."""
    uneven, accounted = _uneven(problem.settings), _accounted(problem.settings)
    if not uneven or not accounted or problem.settings.pipeline_model_parallel_layout:
        return None
    return {"uneven": uneven[0], "accounted": accounted[0]}


def _left(problem: Problem, sizes: Sizes) -> tuple[int, int] | None:
    """Layers and stages beside a first and a last stage of their own; None: there are none."""
    settings = problem.settings
    first = settings.decoder_first_pipeline_num_layers
    last = settings.decoder_last_pipeline_num_layers
    if sizes.pp == 1 or (first is None and last is None):
        return None
    stages = sizes.pp - (first is not None) - (last is not None)
    return problem.model.num_layers - (first or 0) - (last or 0), stages


def uneven_middle(problem: Problem, sizes: Sizes) -> Values | None:
    """The other stages share what is left evenly, and nothing is left without them."""
    found = _left(problem, sizes)
    if found is None:
        return None
    layers, stages = found
    if bool(layers) == bool(stages) and (stages == 0 or layers % stages == 0):
        return None
    return {"layers": layers, "stages": stages}


def uneven_over(problem: Problem, sizes: Sizes) -> Values | None:
    """The first and the last stage hold no more layers than there are."""
    found = _left(problem, sizes)
    if found is None or found[0] >= 0:
        return None
    layers = problem.model.num_layers
    return {"named": layers - found[0], "layers": layers}


def uneven_vpp(problem: Problem, sizes: Sizes) -> Values | None:
    """Every stage divides into its chunks."""
    found = _left(problem, sizes)
    if found is None or sizes.vpp == 1:
        return None
    settings, (layers, stages) = problem.settings, found
    named = (settings.decoder_first_pipeline_num_layers, settings.decoder_last_pipeline_num_layers)
    held = [size for size in named if size is not None]
    if stages and layers % stages == 0:
        held.append(layers // stages)
    uneven = next((size for size in held if size % sizes.vpp), None)
    return None if uneven is None else {"size": uneven, "vpp": sizes.vpp}


def _accounted_layers(problem: Problem) -> int | None:
    """Layers with the embedding and the loss as layers; None where neither is accounted for."""
    accounted = _accounted(problem.settings)
    return problem.model.num_layers + len(accounted) if accounted else None


def accounted_pp(problem: Problem, sizes: Sizes) -> Values | None:
    """Layers, with embedding and loss where they count, divide over the stages."""
    total = _accounted_layers(problem)
    if total is None or _uneven(problem.settings) or total % sizes.pp == 0:
        return None
    return {"total": total, "pp": sizes.pp, "nearest": largest_divisor(total, sizes.pp)}


def accounted_vpp(problem: Problem, sizes: Sizes) -> Values | None:
    """And those of a stage over its chunks."""
    total = _accounted_layers(problem)
    if total is None or _uneven(problem.settings) or total % sizes.pp:
        return None
    held = total // sizes.pp
    if held % sizes.vpp == 0:
        return None
    return {"held": held, "vpp": sizes.vpp, "nearest": largest_divisor(held, sizes.vpp)}


def _chunks(problem: Problem) -> list[str] | None:
    text = problem.settings.pipeline_model_parallel_layout
    return None if text is None else layout_chunks(text)


def layout_alone(problem: Problem, sizes: Sizes) -> Values | None:
    """A layout string says everything."""
    others = [*_uneven(problem.settings), *_accounted(problem.settings)]
    if _chunks(problem) is None or not others:
        return None
    return {"other": others[0]}


def layout_stages(problem: Problem, sizes: Sizes) -> Values | None:
    """A layout string has a chunk for each stage and virtual stage."""
    chunks = _chunks(problem)
    if chunks is None or len(chunks) == sizes.pp * sizes.vpp:
        return None
    nearest = largest_divisor(len(chunks), sizes.pp)
    nearest = nearest if nearest > 1 else len(chunks)
    return {
        "chunks": len(chunks),
        "pp": sizes.pp,
        "vpp": sizes.vpp,
        "nearest_pp": nearest,
        "nearest_vpp": len(chunks) // nearest,
    }


def layout_ends(problem: Problem, sizes: Sizes) -> Values | None:
    """A layout string begins with its only E and ends with its only L."""
    chunks = _chunks(problem)
    letters = "" if chunks is None else "".join(chunks)
    right = letters[:1] == "E" and letters[-1:] == "L"
    if chunks is None or (right and letters.count("E") == letters.count("L") == 1):
        return None
    return {"first": letters[:1], "last": letters[-1:]}


def layout_end_chunks(problem: Problem, sizes: Sizes) -> Values | None:
    """E stands in the first chunk, L in the last."""
    chunks = _chunks(problem)
    if chunks is None or ("E" in chunks[0] and "L" in chunks[-1]):
        return None
    return {"chunks": len(chunks)}


def layout_empty(problem: Problem, sizes: Sizes) -> Values | None:
    """Every chunk between the first and the last holds something."""
    chunks = _chunks(problem) or []
    empty = [place for place in range(1, len(chunks) - 1) if not chunks[place]]
    return {"place": empty[0] + 1, "chunks": len(chunks)} if empty else None


def layout_layers(problem: Problem, sizes: Sizes) -> Values | None:
    """A layout string has a t for every decoder layer."""
    chunks, layers = _chunks(problem), problem.model.num_layers
    found = layers if chunks is None else "".join(chunks).count("t")
    return None if found == layers else {"found": found, "layers": layers}


def layout_mtp(problem: Problem, sizes: Sizes) -> Values | None:
    """A layout string has an m for every MTP layer."""
    chunks, mtp = _chunks(problem), problem.workload.mtp_num_layers
    found = mtp if chunks is None else "".join(chunks).count("m")
    return None if found == mtp else {"found": found, "mtp": mtp}


def microbatch_group_vpp(problem: Problem, sizes: Sizes) -> Values | None:
    """Groups of microbatches are of virtual pipelines."""
    group = problem.settings.microbatch_group_size_per_vp_stage
    return None if group is None or sizes.vpp > 1 else {"group": group}


def precision_aware_adam(problem: Problem, sizes: Sizes) -> Values | None:
    """Only Adam has states of other precisions."""
    settings = problem.settings
    if not settings.use_precision_aware_optimizer or settings.optimizer == "adam":
        return None
    return {"optimizer": settings.optimizer}


def precision_aware_distributed(problem: Problem, sizes: Sizes) -> Values | None:
    """Only the distributed optimizer has states of other precisions."""
    settings = problem.settings
    if not settings.use_precision_aware_optimizer or settings.use_distributed_optimizer:
        return None
    return {}


_STATE_DTYPES = ("main_grads_dtype", "main_params_dtype", "exp_avg_dtype", "exp_avg_sq_dtype")


def precision_aware_off(problem: Problem, sizes: Sizes) -> Values | None:
    """States of other precisions need the precision-aware optimizer."""
    settings = problem.settings
    lower = [name for name in _STATE_DTYPES if getattr(settings, name) != "fp32"]
    if settings.use_precision_aware_optimizer or not lower:
        return None
    return {"flag": lower[0], "value": getattr(settings, lower[0])}


def offload_dtypes(problem: Problem, sizes: Sizes) -> Values | None:
    """States on the host are fp32."""
    settings = problem.settings
    lower = [name for name in _STATE_DTYPES[1:] if getattr(settings, name) != "fp32"]
    if not settings.optimizer_cpu_offload or not lower:
        return None
    return {"flag": lower[0], "value": getattr(settings, lower[0])}


def sgd_distributed(problem: Problem, sizes: Sizes) -> Values | None:
    """The distributed optimizer steps with Adam, or on the host."""
    settings = problem.settings
    if settings.optimizer == "adam" or settings.optimizer_cpu_offload:
        return None
    return {"optimizer": settings.optimizer} if settings.use_distributed_optimizer else None


def overlap_distributed(problem: Problem, sizes: Sizes) -> Values | None:
    """Parameters are gathered only where the optimizer is distributed."""
    if problem.settings.use_distributed_optimizer or not problem.recipe.overlap_param_gather:
        return None
    return {}


def fp8_param(problem: Problem, sizes: Sizes) -> Values | None:
    """Weights are kept in fp8 only where products are in fp8."""
    settings = problem.settings
    return {} if settings.fp8_param_gather and settings.fp8_format is None else None


def fp8_recompute(problem: Problem, sizes: Sizes) -> Values | None:
    """With delayed scaling neither activations of experts nor norms are recomputed alone."""
    settings = problem.settings
    modules = sorted({"moe_act", "layernorm"} & set(sizes.recompute.modules))
    if settings.fp8_format is None or settings.fp8_recipe != "delayed" or not modules:
        return None
    return {"modules": " and ".join(modules)}


def fp8_gpu(problem: Problem, sizes: Sizes) -> Values | None:
    """The GPU has fp8 products of the recipe."""
    recipe, gpu = fp8_recipe(problem.settings), problem.cluster.gpu
    if recipe is None or recipe.least <= gpu.compute_capability < recipe.below:
        return None
    has_fp8 = gpu.compute_capability >= FP8_RECIPES["delayed"].least
    return {
        "recipe": problem.settings.fp8_recipe,
        "gpu": gpu.name,
        "capability": ".".join(map(str, gpu.compute_capability)),
        "instead": "set fp8_recipe=delayed" if has_fp8 else "leave out fp8_format",
    }


def fp8_dims(problem: Problem, sizes: Sizes) -> Values | None:
    """Both sizes of every matrix are multiples of the recipe's block."""
    recipe = fp8_recipe(problem.settings)
    if recipe is None:
        return None
    for size in _matrix_sizes(problem, sizes):
        if size % recipe.features:
            name = problem.settings.fp8_recipe
            return {"size": size, "block": recipe.features, "recipe": name}
    return None


def _matrix_sizes(problem: Problem, sizes: Sizes) -> list[int]:
    """Widths that tensor parallelism leaves on a rank, of the layers that run in fp8."""
    model, moe = problem.model, problem.model.moe
    found = [model.hidden_size]
    if not all(model.moe_layers):
        found.append(model.dense_ffn_hidden_size // sizes.tp)
    if moe is not None:
        found.append(moe.ffn_hidden_size // sizes.etp)
        found.append(moe.shared_expert_intermediate_size // sizes.tp)
    return found


def capacity_padding(problem: Problem, sizes: Sizes) -> Values | None:
    """Experts' input is padded to a capacity that is said."""
    settings = problem.settings
    if not settings.moe_pad_expert_input_to_capacity:
        return None
    return None if settings.moe_expert_capacity_factor is not None else {}
