"""The modifiers of the recipe language, each with the fields that llmcompressor's own has. Nothing here imports torch.

A field left out is left to llmcompressor, whose default the description names.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field, model_validator

from quantpress.errors import nearest
from quantpress.language.validation import Strict
from quantpress.recipe.presets import SCHEMES, Scheme


def _known_scheme(name: str) -> str:
    if name not in SCHEMES:
        raise ValueError(f"{name!r} is not a scheme; {nearest(name, SCHEMES)}")
    return name


def _clean_name(name: str) -> str:
    if not name.removeprefix("re:"):
        raise ValueError("an empty name matches nothing; name a layer, a class or re:PATTERN")
    try:
        re.compile(name.removeprefix("re:") if name.startswith("re:") else "")
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"{name!r} is not a regular expression: {error}") from error
    return name


def _power_of_two(size: int) -> int:
    if size & (size - 1):
        raise ValueError(f"a Hadamard matrix of our kind has a power of two as its size, not {size}")
    return size


SchemeName = Annotated[str, AfterValidator(_known_scheme), Field(json_schema_extra={"enum": list(SCHEMES)})]
Name = Annotated[str, AfterValidator(_clean_name), Field(max_length=1000)]
Names = Annotated[list[Name], Field(max_length=10000)]
GroupSize = Literal["auto"] | Annotated[int, Field(ge=16, le=1024)]
IfPresent = Annotated[
    Names | None,
    Field(
        description="More of `ignore`, of which what matches nothing is a note and no error: for a list that serves "
        "several models."
    ),
]
PowerOfTwo = Annotated[int, Field(ge=2, le=65536), AfterValidator(_power_of_two)]
ActivationObserver = Literal["minmax", "static_minmax", "memoryless_minmax", "mse", "memoryless_mse"]
Observer = (
    ActivationObserver | Literal["imatrix_mse", "nvfp4_expanded_mse", "nvfp4_expanded_imatrix"]
)  # the last two search scales above the greatest value too, and are for NVFP4
IMATRIX = ("imatrix_mse", "nvfp4_expanded_imatrix")
NVFP4_ONLY = ("nvfp4_expanded_mse", "nvfp4_expanded_imatrix")
FallbackLimit = Annotated[
    float | None,
    Field(
        ge=0,
        le=1,
        description="The share of its layers that may be rounded without calibration, because their activations "
        "overflow or tell too little, before the stage fails; left out: 0.6.",
    ),
]
ActOrder = Literal["static", "weight"]


class QuantArgs(Strict):
    """How weights or activations are quantized, in compressed-tensors' terms (QuantizationArgs)."""

    num_bits: Literal[2, 3, 4, 5, 6, 7, 8] = 8
    type: Literal["int", "float"] = "int"
    symmetric: bool = True
    strategy: Literal["tensor", "channel", "group", "block", "token"]
    group_size: GroupSize | None = Field(default=None, description="With strategy group; `auto`: 128, 64 or 32.")
    block_structure: (
        Annotated[list[Annotated[int, Field(ge=16, le=1024)]], Field(min_length=2, max_length=2)] | None
    ) = Field(default=None, description="With strategy block: [rows, columns], such as [128, 128].")
    dynamic: bool = Field(default=False, description="Scales found while serving; for activations only.")
    observer: Observer | None = Field(default=None, description="How ranges are found; llmcompressor's own: minmax.")
    observer_kwargs: dict[str, bool | int | float] | None = Field(
        default=None, description="The observer's options, such as {norm: 2.4, grid: 100} for mse."
    )
    actorder: ActOrder | None = Field(default=None, description="GPTQ's column order, instead of the modifier's.")

    @model_validator(mode="after")
    def _consistent(self) -> QuantArgs:
        problems = []
        if (self.strategy == "group") != (self.group_size is not None):
            problems.append("group_size goes with strategy group, and only with it")
        if (self.strategy == "block") != (self.block_structure is not None):
            problems.append("block_structure goes with strategy block, and only with it")
        if self.strategy == "token" and not self.dynamic:
            problems.append("strategy token needs dynamic: true; there are no tokens to measure before serving")
        if self.type == "float" and self.num_bits != 8:
            problems.append(
                f"type float has 8 bits here, not {self.num_bits}; 4-bit floats are the presets NVFP4, NVFP4A16, "
                "MXFP4 and MXFP4A16, which fix the format of their scales too"
            )
        if self.type == "float" and not self.symmetric:
            problems.append("type float is symmetric; vLLM has no zero points for it")
        if problems:
            raise ValueError("; ".join(problems))
        return self


class KvCache(Strict):
    """How the KV cache is stored: vLLM serves 8-bit floats with one scale a tensor or an attention head."""

    num_bits: Literal[8] = 8
    type: Literal["float"] = "float"
    strategy: Literal["tensor", "attn_head"] = "tensor"
    observer: ActivationObserver | None = Field(default=None, description="llmcompressor's own: minmax.")


Role = Literal["prepares", "quantizes", "prunes"]


class Body(Strict):
    """What stands under a modifier's name."""

    ROLE: ClassVar[Role]
    # Whether llmcompressor puts together what several processes saw of the data.
    SHARES_DATA: ClassVar[bool] = False

    @property
    def role(self) -> Role:
        """What it does to the weights: prepares them for a modifier that quantizes, quantizes, or prunes."""
        return self.ROLE

    @property
    def needs_data(self) -> bool:
        """Whether it looks at calibration data."""
        return True

    @property
    def rotates(self) -> bool:
        """Whether layers hand on something else than the model's, be it folded into the weights or not."""
        return False

    @property
    def rotates_online(self) -> bool:
        """Whether vLLM has to apply rotations while it serves; those that are folded into weights need nothing."""
        return False


class SchemeArgs(Strict):
    """A preset `scheme`, or explicit `weights` (and activations)."""

    scheme: SchemeName | None = Field(default=None, description="A preset of compressed-tensors.")
    group_size: GroupSize | None = Field(
        default=None, description="For presets with integer groups: `auto` (the default: 128, 64 or 32) or a number."
    )
    weights: QuantArgs | None = Field(default=None, description="Explicit arguments, instead of `scheme`.")
    input_activations: QuantArgs | None = Field(default=None, description="With `weights`; left out: 16 bits.")
    weight_observer: Observer | None = Field(default=None, description="With `scheme`: another observer of weights.")
    input_observer: ActivationObserver | None = Field(
        default=None, description="With `scheme`: another observer of static activations."
    )

    @model_validator(mode="after")
    def _scheme_or_weights(self) -> SchemeArgs:
        if self.scheme and self.weights:
            raise ValueError("give either scheme (a preset) or weights (explicit arguments)")
        if self.group_size is not None and (self.preset is None or not self.preset.free_group):
            raise ValueError(f"group_size cannot be chosen for {self.scheme or 'explicit weights (set it there)'}")
        if self.scheme:
            _check_preset(self)
        else:
            _check_explicit(self)
        _check_weight_observer(self)
        return self

    @property
    def preset(self) -> Scheme | None:
        return SCHEMES[self.scheme] if self.scheme else None

    @property
    def requested_group_size(self) -> Literal["auto"] | int | None:
        """The group size that the recipe asks for; None where the scheme has no groups to choose."""
        if self.weights:
            return self.weights.group_size
        return (self.group_size or "auto") if self.preset and self.preset.free_group else None

    @property
    def static_activations(self) -> bool:
        if self.weights:
            return self.input_activations is not None and not self.input_activations.dynamic
        return self.preset is not None and self.preset.activations == "static"

    @property
    def needs_data(self) -> bool:
        observer = self.weights.observer if self.weights else self.weight_observer
        return self.static_activations or observer in IMATRIX

    @property
    def weight_strategy(self) -> str:
        return self.weights.strategy if self.weights else self.preset.strategy if self.preset else ""

    def update_of(self, size: int) -> dict[str, Any]:
        """What changes where `size` is the group size."""
        if self.weights:
            return {"weights": self.weights.model_copy(update={"group_size": size})}
        return {"group_size": size}


def _check_preset(args: SchemeArgs) -> None:
    if args.input_activations:
        raise ValueError("input_activations goes with explicit weights; a preset scheme has its own")
    if args.input_observer and not args.static_activations:
        raise ValueError(f"input_observer: {args.scheme} measures no activations before serving")


def _check_explicit(args: SchemeArgs) -> None:
    if args.weight_observer or args.input_observer:
        raise ValueError("weight_observer and input_observer go with scheme; explicit arguments have `observer`")
    weights, inputs = args.weights, args.input_activations
    if weights is None:
        if inputs:
            raise ValueError("input_activations goes with explicit weights")
        return
    if weights.strategy == "token" or weights.dynamic:
        raise ValueError("weights are fixed: strategy tensor, channel, group or block, and not dynamic")
    if inputs is None:
        return
    if inputs.strategy not in ("tensor", "token", "group"):
        raise ValueError(f"input_activations take strategy tensor, token or group, not {inputs.strategy}")
    if inputs.strategy == "group" and (not inputs.dynamic or inputs.group_size == "auto"):
        raise ValueError("input_activations in groups need dynamic: true and a number as group_size")
    if inputs.actorder or inputs.observer in (*IMATRIX, *NVFP4_ONLY):
        raise ValueError("actorder and the imatrix and nvfp4 observers are for weights")


def _check_weight_observer(args: SchemeArgs) -> None:
    observer = args.weights.observer if args.weights else args.weight_observer
    if observer in IMATRIX and args.weight_strategy not in ("channel", "group"):
        raise ValueError(f"observer {observer} weighs input channels: it needs strategy channel or group")
    if observer in NVFP4_ONLY and not (args.scheme or "").startswith("NVFP4"):
        raise ValueError(f"observer {observer} is for the presets NVFP4 and NVFP4A16")


class Group(SchemeArgs):
    """One group of layers, and how it is quantized."""

    targets: Names = Field(
        min_length=1, description="Class names (Linear, Embedding), exact layer names, or re:PATTERN."
    )

    @model_validator(mode="after")
    def _quantizes(self) -> Group:
        if not self.scheme and not self.weights:
            raise ValueError("give either scheme (a preset) or weights (explicit arguments)")
        return self


class Quantizes(SchemeArgs, Body):
    """What every modifier that quantizes shares: one scheme for its targets, or several `groups` with their own."""

    ROLE = "quantizes"

    groups: list[Group] | None = Field(
        default=None, min_length=1, description="Mixed precision: groups of layers, instead of one scheme for all."
    )
    targets: Names = Field(
        default=["Linear"],
        min_length=1,
        description="Class names (Linear, Embedding), exact layer names, or re:PATTERN matched from the name's start.",
    )
    ignore: Names = Field(
        default=["lm_head"],
        description="The same, for layers to leave alone; the default also leaves alone what `plan` lists.",
    )
    ignore_if_present: IfPresent = None
    kv_cache: KvCache | None = Field(default=None, description="Quantize the KV cache too; {} takes the defaults.")

    @model_validator(mode="after")
    def _one_way(self) -> Quantizes:
        if self.groups and (self.scheme or self.weights):
            raise ValueError("groups have their schemes; leave scheme and weights out beside them")
        if self.groups and self.targets != ["Linear"]:
            raise ValueError("groups have their targets; leave targets out beside them")
        if not self.quantizes and not self._may_be_bare():
            raise ValueError("give either scheme (a preset) or weights (explicit arguments), or groups")
        for group in self.all_groups:
            self._check_group(group)
        return self

    def _may_be_bare(self) -> bool:
        return False

    def _check_group(self, group: Group) -> None:
        if group.weights and group.weights.actorder:
            raise ValueError("actorder is a matter of gptq")

    @property
    def quantizes(self) -> bool:
        """Whether this modifier stores something in fewer bits, or only prepares for one that does."""
        return bool(self.groups or self.scheme or self.weights or self.kv_cache)

    @property
    def role(self) -> Role:
        return "quantizes" if self.quantizes else "prepares"

    @property
    def all_groups(self) -> list[Group]:
        """The groups, also where there is one scheme for all targets; none where only the KV cache is quantized."""
        if self.groups:
            return self.groups
        if not (self.scheme or self.weights):
            return []
        shared = {name: getattr(self, name) for name in SchemeArgs.model_fields}
        return [Group.model_construct(targets=self.targets, **shared)]

    @property
    def needs_data(self) -> bool:
        return self.kv_cache is not None or any(group.needs_data for group in self.all_groups)

    def with_group_sizes(self, sizes: list[int | None]) -> Quantizes:
        """The same with the group size of each of `all_groups`; None leaves one as it is."""
        updates = [group.update_of(size) if size else {} for group, size in zip(self.all_groups, sizes, strict=True)]
        if self.groups:
            pairs = zip(self.groups, updates, strict=True)
            return self.model_copy(update={"groups": [group.model_copy(update=update) for group, update in pairs]})
        return self.model_copy(update=updates[0] if updates else {})


class Rtn(Quantizes):
    """Round to nearest: plain quantization (llmcompressor's QuantizationModifier)."""

    SHARES_DATA = True


class Gptq(Quantizes):
    """GPTQ, arXiv 2210.17323 (llmcompressor's GPTQModifier)."""

    SHARES_DATA = True

    block_size: int = Field(default=128, ge=1, le=65536, description="Columns that are corrected at a time.")
    dampening_frac: float = Field(
        default=0.01,
        gt=0,
        le=1,
        description="Of the Hessian's mean diagonal; raise it if the Hessian is not positive definite.",
    )
    actorder: Literal["static", "weight", "none"] = Field(
        default="static", description="Columns by their activations' size; static and weight are the same to vLLM."
    )
    batched_quantization: Literal["auto", "none"] | Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="Layers of one shape at a time, a matter of memory; llmcompressor's own: auto."
    )
    fallback_limit: FallbackLimit = None

    @property
    def needs_data(self) -> bool:
        return True

    def _check_group(self, group: Group) -> None:
        if group.weights and group.weights.actorder and self.actorder == "none":
            raise ValueError("actorder none contradicts the actorder of the weights")


class Mapping(Strict):
    """What AWQ and SmoothQuant rescale: `smooth_layer` gives what it takes from the inputs of `balance_layers`."""

    smooth_layer: Name
    balance_layers: Names = Field(min_length=1)


class AwqMapping(Mapping):
    activation_hook_target: str | None = Field(
        default=None, min_length=1, description="Submodule of the common parent whose input is measured."
    )


class Awq(Quantizes):
    """AWQ, arXiv 2306.00978: scales searched on activations (AWQModifier), then round to nearest.

    Without a scheme it only rescales, for a modifier after it that quantizes.
    """

    SHARES_DATA = True

    n_grid: int = Field(default=20, ge=1, le=200, description="Scales that are tried for each mapping.")
    duo_scaling: bool | Literal["both"] = Field(
        default=True, description="Scales from weights too, not activations alone."
    )
    mappings: list[AwqMapping] | None = Field(
        default=None, min_length=1, description="llmcompressor's own: those of the model's architecture."
    )
    offload_device: Literal["cpu"] | None = Field(
        default=None, description="Where activations wait; llmcompressor's own: cpu for experts, else nowhere."
    )
    fallback_limit: FallbackLimit = None

    def _may_be_bare(self) -> bool:
        return self.targets == ["Linear"] and self.ignore == ["lm_head"] and self.ignore_if_present is None

    @property
    def needs_data(self) -> bool:
        return True

    def _check_group(self, group: Group) -> None:
        super()._check_group(group)
        if self.duo_scaling is not False and group.weight_strategy == "tensor":
            raise ValueError("duo_scaling needs weights in channels or groups; say duo_scaling: false for tensors")


class AutoRound(Quantizes):
    """AutoRound, arXiv 2309.05516: rounding tuned by signed gradient descent (llmcompressor's AutoRoundModifier)."""

    iters: int | None = Field(
        default=None, ge=0, le=10000, description="Steps for each layer; llmcompressor's own: 200."
    )
    lr: float | None = Field(default=None, gt=0, le=1, description="auto-round's own: 1/iters.")
    batch_size: int | None = Field(default=None, ge=1, le=1024, description="llmcompressor's own: 8.")
    enable_torch_compile: bool | None = Field(default=None, description="llmcompressor's own: true.")
    disable_opt_rtn: bool | None = Field(default=None, description="llmcompressor's own: false.")

    @property
    def needs_data(self) -> bool:
        return True

    def _check_group(self, group: Group) -> None:
        super()._check_group(group)
        if group.weight_strategy == "block" or (group.preset and group.preset.strategy == "block"):
            raise ValueError("AutoRound tunes tensors, channels and groups, not blocks")


class SmoothQuant(Body):
    """SmoothQuant, arXiv 2211.10438 (llmcompressor's SmoothQuantModifier): comes before the quantizing modifier."""

    ROLE = "prepares"
    SHARES_DATA = True

    smoothing_strength: float = Field(default=0.5, ge=0, le=1, description="0 leaves activations as they are.")
    ignore: Names | None = Field(default=None, description="A mapping is left out if all its layers are ignored.")
    ignore_if_present: IfPresent = None
    mappings: list[Mapping] | None = Field(
        default=None, min_length=1, description="llmcompressor's own: those of the model's architecture."
    )
    algorithm: Literal["smoothquant", "log_equalization"] | None = Field(
        default=None, description="llmcompressor's own: smoothquant."
    )


class Rotation(Body):
    """What SpinQuant and QuIP share: they look at no data."""

    ROLE = "prepares"

    @property
    def needs_data(self) -> bool:
        return False

    @property
    def rotates(self) -> bool:
        return True


class SpinQuant(Rotation):
    """SpinQuant, arXiv 2405.16406 (llmcompressor's SpinQuantModifier): rotations before the quantizing modifier."""

    rotations: list[Literal["R1", "R2", "R3", "R4"]] = Field(
        default=["R1", "R2"],
        min_length=1,
        description="R1 and R2 are folded into weights; R3 and R4 run while serving.",
    )
    transform_type: Literal["hadamard", "random-hadamard", "random-matrix"] = "hadamard"
    transform_block_size: PowerOfTwo | None = Field(default=None, description="Left out: the whole width.")

    @property
    def rotates_online(self) -> bool:
        return bool({"R3", "R4"} & set(self.rotations))


class Quip(Rotation):
    """QuIP, arXiv 2307.13304 (llmcompressor's QuIPModifier): rotations before the quantizing modifier."""

    rotations: list[Literal["v", "u"]] = Field(default=["v"], min_length=1, description="v: inputs, u: outputs.")
    transform_type: Literal["hadamard", "random-hadamard", "random-matrix"] = "random-hadamard"
    transform_block_size: PowerOfTwo | None = Field(default=None, description="Left out: the whole width.")
    targets: Names = Field(default=["Linear"], min_length=1)
    ignore: Names = Field(default=["lm_head"])
    ignore_if_present: IfPresent = None

    @property
    def rotates_online(self) -> bool:
        return True


class Prunes(Body):
    """What SparseGPT and Wanda share: weights set to zero. vLLM runs the result as if it were dense."""

    ROLE = "prunes"

    sparsity: float = Field(gt=0, lt=1, description="The share of weights that become zero.")
    mask_structure: str | None = Field(
        default=None, pattern=r"^[1-9]\d?:[1-9]\d?$", description='"2:4" in quotes; left out: anywhere.'
    )
    targets: Names = Field(default=["Linear"], min_length=1)
    ignore: Names = Field(default=["lm_head"])
    ignore_if_present: IfPresent = None

    @model_validator(mode="after")
    def _mask_agrees(self) -> Prunes:
        if self.mask_structure is None:
            return self
        zeros, of = map(int, self.mask_structure.split(":"))
        if zeros >= of or abs(zeros / of - self.sparsity) > 1e-9:
            raise ValueError(f"mask_structure {self.mask_structure} makes {zeros} of {of} zero, not {self.sparsity}")
        return self


class SparseGpt(Prunes):
    """SparseGPT, arXiv 2301.00774 (llmcompressor's SparseGPTModifier): pruning with correction of what is left."""

    block_size: int | None = Field(default=None, ge=1, le=65536, description="llmcompressor's own: 128.")
    dampening_frac: float | None = Field(default=None, gt=0, le=1, description="llmcompressor's own: 0.01.")
    preserve_sparsity_mask: bool | None = Field(default=None, description="Keep zeros that are there already.")
    offload_hessians: bool | None = Field(default=None, description="Less memory, more time.")


class Wanda(Prunes):
    """Wanda, arXiv 2306.11695 (llmcompressor's WandaPruningModifier): pruning by weight times activation."""


class Reap(Body):
    """REAP, arXiv 2510.13999 (llmcompressor's REAPPruningModifier): takes out the experts that matter least."""

    ROLE = "prunes"

    sparsity: float = Field(gt=0, lt=1, description="The share of experts to take out of each layer.")
    ignore: Names | None = Field(default=None, description="re:PATTERN or names of expert layers to leave whole.")
    ignore_if_present: IfPresent = None


# The roles by name, for data that is not valid yet; awq without a scheme prepares.
ROLES: dict[str, Role] = {
    **dict.fromkeys(("smoothquant", "spinquant", "quip"), "prepares"),
    **dict.fromkeys(("sparsegpt", "wanda", "reap"), "prunes"),
    **dict.fromkeys(("gptq", "awq", "autoround", "rtn"), "quantizes"),
}


class Modifier(Strict):
    """One entry of `modifiers`: a mapping with one key, the modifier's name."""

    smoothquant: SmoothQuant | None = None
    spinquant: SpinQuant | None = None
    quip: Quip | None = None
    sparsegpt: SparseGpt | None = None
    wanda: Wanda | None = None
    reap: Reap | None = None
    gptq: Gptq | None = None
    awq: Awq | None = None
    autoround: AutoRound | None = None
    rtn: Rtn | None = None

    @model_validator(mode="after")
    def _exactly_one(self) -> Modifier:
        if len(self.model_fields_set) != 1:
            raise ValueError(f"one modifier per entry, found {', '.join(sorted(self.model_fields_set)) or 'none'}")
        if getattr(self, self.name) is None:
            raise ValueError(f"{self.name} has no body; write {self.name}: {{}} for its defaults")
        return self

    @property
    def name(self) -> str:
        return next(iter(self.model_fields_set))

    @property
    def body(self) -> Body:
        body: Body = getattr(self, self.name)
        return body

    @property
    def role(self) -> Role:
        return self.body.role
