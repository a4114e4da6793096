"""What would fail in llmcompressor or in vLLM, found from the recipe and the model's shapes."""

from __future__ import annotations

import importlib.util
import re

from quantpress.errors import CapabilityError, InputError
from quantpress.model import layers
from quantpress.model.config import Config, number_in, positions, text_config
from quantpress.model.headers import Tensor
from quantpress.model.layers import Layers
from quantpress.model.structure import Algorithm, Asked, Mapping, Rescaled, Rescalings
from quantpress.plan import fused
from quantpress.plan.fused import Packing
from quantpress.recipe.modifiers import Awq, Group, Modifier, Prunes, Quantizes, Quip, Reap, SmoothQuant, SpinQuant
from quantpress.recipe.presets import Scheme
from quantpress.recipe.recipe import OWN_DATASET, SHIPPED_DATASET, Recipe

_EXPERTS = ("num_experts", "num_local_experts", "moe_num_experts", "n_routed_experts")
# Learned positions of a language model; a vision tower's have nothing to do with its sequences.
_POSITIONS = re.compile(r"^(?!.*(vision|visual|audio)).*(^|\.)(wpe|embed_positions|position_embeddings?)$")
_BY_INPUTS = ("gptq", "autoround")
# The shipped chats were written by a model of 135M parameters. Beyond so many they are too poor: a larger model knows
# more than they say, and its activations on them are not those on what it is asked.
SHIPPED_CHATS_UP_TO = 1_000_000_000
_TOP_K = ("num_experts_per_tok", "top_k", "moe_top_k")


def check(recipe: Recipe, schemes: dict[str, Scheme], structure: Layers, config: Config, packing: Packing) -> list[str]:
    """Raises InputError for what cannot work, CapabilityError for what is not installed. Returns notes for people."""
    fused.check(schemes, structure, packing)
    notes = fused.notes(fused.architecture(config)) + fused.expert_notes(schemes, structure, packing)
    notes += too_long(recipe, structure, config)
    for modifier in recipe.modifiers:
        notes += _check_modifier(modifier, schemes, structure, config)
    if structure.tied and "lm_head" in schemes:
        notes.append(f"lm_head shares its weight with {structure.tied}; quantizing it stores both")
    elif structure.tied in schemes:
        notes.append(f"{structure.tied} shares its weight with lm_head; quantizing it stores both")
    return notes


def too_long(recipe: Recipe, structure: Layers, config: Config) -> list[str]:
    """Calibration sequences against the positions that the model has: learned ones end, rotary ones only fade."""
    longest, calibration = positions(config), recipe.calibration
    if calibration is None or not longest or calibration.max_sequence_length <= longest:
        return []
    wanted = calibration.max_sequence_length
    if learned := next((name for name in structure.names if _POSITIONS.search(name)), None):
        raise InputError(
            f"calibration.max_sequence_length {wanted}: the model has {longest} positions ({learned})",
            hint=f"--set calibration.max_sequence_length={longest}",
        )
    return [
        f"calibration sequences of {wanted} tokens are longer than the {longest} that the model was made for: what it "
        "computes beyond them, and is calibrated on, may mean nothing"
    ]


def poor_chats(recipe: Recipe, parameters: int) -> list[str]:
    """Says so where a model of so many parameters is calibrated on the shipped chats and is too large for them."""
    sources = recipe.calibration.sources if recipe.calibration else []
    if parameters <= SHIPPED_CHATS_UP_TO or all(source.dataset != SHIPPED_DATASET for source in sources):
        return []
    return [
        f"{SHIPPED_DATASET} was written by a model of 135M parameters and is poor for one of {parameters / 1e9:.1f}B "
        f"(more than {SHIPPED_CHATS_UP_TO / 1e9:.0f}B): ranges and Hessians are those of a simpler text than it is "
        f"asked for; calibration.dataset={OWN_DATASET} lets it write chats itself, and a file may hold yours"
    ]


def _check_modifier(modifier: Modifier, schemes: dict[str, Scheme], structure: Layers, config: Config) -> list[str]:
    body = modifier.body
    if isinstance(body, Quantizes) and body.kv_cache:
        _check_kv_cache(modifier.name, body, structure)
    if isinstance(body, SmoothQuant | Awq):
        return _check_rescaling(modifier, body, schemes, structure, config)
    if isinstance(body, Prunes):
        _check_selection(modifier.name, body, structure)
        return [f"{modifier.name}: vLLM runs a pruned model as if it were dense: no faster and no smaller"]
    if isinstance(body, Quip):
        _check_selection(modifier.name, body, structure)
    if isinstance(body, SpinQuant | Quip):
        return _check_rotation(modifier.name, body, structure, config)
    if isinstance(body, Reap):
        return [f"reap leaves {experts_left(body, config)} experts in each layer"]
    if modifier.name == "autoround" and importlib.util.find_spec("auto_round") is None:
        raise CapabilityError("autoround needs the package auto-round, which is not installed", hint="make setup")
    return []


def _check_kv_cache(name: str, body: Quantizes, structure: Layers) -> None:
    """llmcompressor gives each attention of the language model scales of its keys and values, and then observes only
    those whose name ends in self_attn or attention and is not ignored: the others' scales would be what the memory
    held. Raises InputError for one of these."""
    outside = [pattern for pattern, why in structure.left_alone.items() if why.startswith("outside the language model")]
    for module, kind in structure.classes.items():
        holds = f"{module}.k_proj" in structure.linears or f"{module}.v_proj" in structure.linears
        if "attention" not in kind.lower() or not holds or any(structure.matching(one, [module]) for one in outside):
            continue
        if ignored := next((one for one in body.ignore if structure.matching(one, [module])), None):
            raise InputError(
                f"{name}: ignore has {ignored!r}, which matches {module} itself: the KV cache's scales would be left "
                "as they are by chance",
                hint="name the layers in it: 're:.*self_attn\\..*'",
            )
        if not module.endswith(("self_attn", "attention")):
            raise InputError(
                f"{name}: kv_cache needs attention modules whose names end in self_attn or attention, and {module} "
                "does not: llmcompressor would leave its scales as they are by chance",
                hint="leave kv_cache out; an engine with kv_cache_dtype fp8 needs no scales of the checkpoint",
            )


def _check_selection(name: str, body: Prunes | Quip, structure: Layers) -> None:
    """Pruning takes the layers inside of the modules that it names, too."""
    containers = structure.containers if isinstance(body, Prunes) else ()
    for pattern in (*body.targets, *(one for one in body.ignore if one != "lm_head")):
        if not structure.matching(pattern, [*structure.names, *containers]):
            raise InputError(f"{name}: {pattern!r} matches no layer of the model", hint="correct targets or ignore")
    inside = structure.within(structure.selected(containers, body.targets))
    if not {*structure.selected(list(structure.linears), body.targets), *inside} - {
        found for pattern in body.ignore for found in structure.matching(pattern, structure.linears)
    }:
        raise InputError(f"{name}: every targeted layer is ignored", hint="narrow `ignore` in the recipe")


def check_embeddings(modifier: str, group: Group, embeddings: list[str]) -> None:
    """Raises InputError for embeddings among the layers of a group where they cannot be quantized."""
    if not embeddings:
        return
    if modifier in _BY_INPUTS:
        raise InputError(
            f"{modifier}: {embeddings[0]} is an embedding; {modifier} looks at what goes into a layer, which here are "
            "token numbers, and llmcompressor would leave its scales undefined",
            hint="add it to `ignore`, and quantize it by an entry of its own: "
            "- rtn: {scheme: W8A16, targets: [Embedding], ignore: []}",
        )
    activations = group.preset.activations != "none" if group.preset else group.input_activations is not None
    if activations:
        raise InputError(
            f"{modifier}: {embeddings[0]} is an embedding; what goes into it are token numbers, which cannot be "
            f"quantized as {group.scheme or 'input_activations'} would",
            hint="give embeddings a group with weights alone: scheme W8A16 or W4A16",
        )


def rescales(modifier: Modifier) -> bool:
    """Whether a modifier rescales layers by mappings."""
    return isinstance(modifier.body, SmoothQuant | Awq)


def asked(modifier: Modifier) -> Asked:
    """The question to llmcompressor what the mappings of a modifier that rescales resolve to."""
    body = modifier.body
    assert isinstance(body, SmoothQuant | Awq)
    algorithm: Algorithm = "awq" if isinstance(body, Awq) else "smoothquant"
    mappings = [Mapping(**mapping.model_dump()) for mapping in body.mappings] if body.mappings else None
    return Asked(algorithm=algorithm, mappings=mappings)


def held_to_the_language_model(modifier: Modifier, structure: Layers) -> Modifier:
    """The modifier with explicit mappings, where llmcompressor's own would reach into a tower of the model."""
    body = modifier.body
    if not isinstance(body, SmoothQuant | Awq) or body.mappings:
        return modifier
    within = structure.rescaling(asked(modifier)).within
    if within is None:
        return modifier
    mappings = [mapping.model_dump(exclude_none=True) for mapping in within]
    options = body.model_dump(exclude_unset=True) | {"mappings": mappings}
    return Modifier.model_validate({modifier.name: options})


def _check_rescaling(
    modifier: Modifier, body: SmoothQuant | Awq, schemes: dict[str, Scheme], structure: Layers, config: Config
) -> list[str]:
    name = modifier.name
    kind = fused.architecture(config) or "an unknown architecture"
    source = "the recipe's mappings" if body.mappings else f"llmcompressor's mappings for {kind}"
    answer = _answer(modifier, structure)
    if answer.refused:
        raise InputError(
            f"{name}: {source} do not fit this model, says llmcompressor: {answer.refused}",
            hint="give `mappings` of your own: [{smooth_layer: re:..., balance_layers: [re:...]}]",
        )
    found = answer.found
    if isinstance(body, SmoothQuant):
        found = _without_ignored(body, found, structure)
    else:
        found = [one for one in found if {one.smooth, *one.balance} & schemes.keys()]
    if not found:
        raise InputError(
            f"{name}: {source} match nothing here, so nothing would be rescaled",
            hint="give `mappings` of your own: [{smooth_layer: re:..., balance_layers: [re:...]}]",
        )
    held = ", held to the language model," if answer.within else ""
    return [f"{name}: {source}{held} match {len(found)} times"]


def _answer(modifier: Modifier, structure: Layers) -> Rescalings:
    """What the mappings resolve to; those that a plan held to the language model are llmcompressor's own."""
    known = [one for one in structure.rescalings if one.asked == asked(modifier)]
    if known:
        return known[0]
    return structure.rescaling(Asked(algorithm=asked(modifier).algorithm))


def _without_ignored(body: SmoothQuant, found: list[Rescaled], structure: Layers) -> list[Rescaled]:
    ignored: set[str] = set()
    for pattern in body.ignore or []:
        names = structure.matching(pattern, structure.names)
        if not names and pattern != "lm_head":
            raise InputError(
                f"smoothquant.ignore: {pattern!r} matches no layer of the model", hint="correct or remove it"
            )
        ignored |= set(names)
    return [one for one in found if not {one.smooth, *one.balance} <= ignored]


def _check_rotation(name: str, body: SpinQuant | Quip, structure: Layers, config: Config) -> list[str]:
    text = text_config(config)
    width = number_in(text, "hidden_size")
    size = body.transform_block_size
    if size and width % size:
        raise InputError(
            f"{name}: transform_block_size {size} does not divide the hidden size {width}",
            hint="choose a power of two that does, or leave it out",
        )
    if body.transform_type == "hadamard" and not size and width & (width - 1):
        raise InputError(
            f"{name}: there is no Hadamard matrix of our kind for a hidden size of {width}, which is no power of two",
            hint=f"set transform_block_size: {width & -width}, or transform_type: random-matrix",
        )
    notes = [f"{name}: rotations that run while serving allow one GPU only"] if body.rotates_online else []
    if structure.tied and isinstance(body, SpinQuant):
        notes.append(f"{name} needs lm_head and {structure.tied} apart: both are stored")
    return notes


def experts_left(body: Reap, config: Config) -> int:
    """How many experts REAP leaves in each layer. Raises InputError where it cannot take out any."""
    text = text_config(config)
    experts = next((number_in(text, key) for key in _EXPERTS if number_in(text, key)), 0)
    if not experts:
        raise InputError(
            "reap takes out experts, and this model has none", hint="use sparsegpt or wanda, or no pruning"
        )
    left = experts - int(experts * body.sparsity)
    if left == experts:
        raise InputError(f"reap: {body.sparsity} of {experts} experts is none", hint="raise sparsity")
    used = next((number_in(text, key) for key in _TOP_K if number_in(text, key)), 1)
    if left < used:
        raise InputError(f"reap: {left} experts would be left, and each token goes to {used}", hint="lower sparsity")
    return left


def without_experts(tensors: dict[str, Tensor], structure: Layers, left: int) -> tuple[dict[str, Tensor], Layers]:
    """The model with `left` experts in each layer; those that stay are counted anew from 0."""
    kept = {}
    for name, tensor in tensors.items():
        several = name in structure.routers or name in structure.fused_experts
        if several and tensor.shape[0] > left:
            tensor = Tensor(tensor.dtype, (left, *tensor.shape[1:]), tensor.nbytes // tensor.shape[0] * left)
        if layers.expert_number(name) < left:
            kept[name] = tensor
    return kept, layers.without_experts(structure, left)
