"""What a run is: frozen, typed, strict. A recipe gives values, dotted overrides change them, nothing unknown passes.

`load_recipe("glyphs", ["codebook.size=256"])` reads `recipes/glyphs.yaml`, applies the overrides, checks every value
and reports all problems at once. The loaded object is written to the run directory; its fingerprint names the run.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_type_hints

import yaml
from pydantic import BeforeValidator, ConfigDict, Field, Strict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from seed_dist.errors import ConfigError
from seed_dist.fsio import fingerprint
from seed_dist.mixture import DataConfig

RECIPES = Path(__file__).parent / "recipes"
STAGES: tuple[StageName, ...] = ("causal_qformer", "codebook", "lora")
StageName = Literal["causal_qformer", "codebook", "lora"]

_STRICT = ConfigDict(extra="forbid")
# What the watchdog tells apart in a training (seed_dist.watch.heartbeat); all ranks go through them together.
Phase = Literal["start", "load", "data", "forward", "backward", "step", "validate", "save", "export"]

# What may be done about a collapsed codebook (seed_dist.train.collapse); one may be given without a list around it.
Remedy = Literal["warn", "revive", "raise_commitment", "roll_back", "stop"]
Remedies = Annotated[tuple[Remedy, ...], BeforeValidator(lambda given: (given,) if isinstance(given, str) else given)]

# Scalars are strict ("3" is no number); sections are not, because YAML gives mappings for them.
Int = Annotated[int, Strict()]
Float = Annotated[float, Strict()]
Bool = Annotated[bool, Strict()]
Str = Annotated[str, Strict()]
Count = Annotated[Int, Field(ge=1)]
NonNegative = Annotated[Float, Field(ge=0)]
Fraction = Annotated[Float, Field(ge=0, le=1)]
Words = tuple[Str, ...]


@dataclass(frozen=True, config=_STRICT)
class BackboneConfig:
    """Weights from elsewhere: `embedded:NAME` ships with the package, `hub:OWNER/NAME@REVISION` is a commit that
    `python -m seed_dist.assets` fetched, anything else is a local folder.

    All but `qformer` stay frozen.
    """

    image_encoder: Str = "embedded:clip"  # open_clip, BLIP-2; its patch features feed the Q-Former
    generation_encoder: Str = "embedded:clip"  # its image embedding or text features are the target
    text_tokenizer: Str = "embedded:clip"  # transformers tokenizer of the Q-Former's text path
    # Folder of save_pretrained whose weights stage 1 starts from (published: BLIP-2's); null = random weights.
    qformer: Str | None = None
    language_model: Str = "embedded:language"  # transformers causal language model
    painter: Str = "embedded:painter"  # diffusers folder


@dataclass(frozen=True, config=_STRICT)
class QFormerConfig:
    """Causal Q-Former, BERT layout (post-norm). Published: 32 queries, 12 x 768, cross-attention every second layer."""

    queries: Count = 32
    width: Count = 768
    layers: Count = 12
    heads: Count = 12
    mlp_width: Count = 3072
    cross_every: Count = 2
    dropout: Fraction = 0.1
    vision_width: Count = 1408
    projection_width: Count = 256
    max_text_tokens: Count = 32
    text_positions: Count = 512  # rows of the position table (BERT: 512); at least max_text_tokens
    vocabulary_size: Count = 30523
    causal: Bool = True
    temperature: Annotated[Float, Field(gt=0)] = 0.07
    label_smoothing: Fraction = 0.1
    gather_with_gradient: Bool = False  # published: without
    exchanged_negatives: Bool = False  # captions with words exchanged as further negatives; published: none


@dataclass(frozen=True, config=_STRICT)
class CodebookConfig:
    """Quantizer and its two decoders. Published: 8192 x 32; commitment 1, codebook 0.25; weights 5 (VQ), 2, 0.5."""

    size: Count = 8192
    width: Count = 32
    commitment_weight: NonNegative = 1.0
    codebook_weight: NonNegative = 0.25
    quantizer_loss_weight: NonNegative = 5.0
    reconstruction_loss_weight: NonNegative = 2.0
    generation_loss_weight: NonNegative = 0.5
    entropy_loss_weight: NonNegative = 0.0
    distance: Literal["euclidean", "cosine"] = "euclidean"
    whiten_init: Bool = False  # the encode MLP starts by whitening the cached causal embeddings
    kmeans_init: Bool = False
    revive_after_steps: Annotated[Int, Field(ge=0)] = 0  # a code unused for so many steps is re-drawn; 0 = never
    weight_decay_on_codes: Bool = True
    decoder_layers: Count = 4
    decoder_heads: Count = 12
    head: Literal["mlp", "reverse_qformer"] = "reverse_qformer"
    head_queries: Count = 1
    head_layers: Count = 4
    generation_target: Literal["image_embedding", "text_features"] = "image_embedding"
    generation_width: Count = 1024
    # EXTENSION, not published: share of samples whose decoders see only the first codes, as many as a fair draw says.
    prefix_masking: Fraction = 0.0
    usage_window_steps: Count = 100


@dataclass(frozen=True, config=_STRICT)
class LoraConfig:
    """Low-rank adapters on the frozen language model and the new image-token rows."""

    rank: Count = 16
    alpha: Count = 32
    dropout: Fraction = 0.05
    target_modules: Words = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")
    rows_from_codebook: Bool = True  # new rows start as a fixed random projection of the codebook vectors
    # Codes are read as rows of their own, or as codebook vectors through one linear layer (SEED-OPT).
    image_embedding: Literal["rows", "codebook"] = "rows"
    max_tokens: Count = 64
    packing: Bool = False  # several documents per row of max_tokens, without attention between them
    caption_first_share: Fraction = 0.5  # share of sequences that go caption -> image
    gradient_checkpointing: Bool = False  # computes activations twice, to hold those of one layer only
    code_order: Literal["causal", "permuted"] = "causal"  # permuted: one fixed shuffle of positions, as a control


@dataclass(frozen=True, config=_STRICT)
class TrainConfig:
    """One stage's optimisation. Batches in samples over all ranks; durations in optimizer steps."""

    steps: Count
    global_batch: Count
    accumulation: Count = 1
    lr: Annotated[Float, Field(gt=0)] = 1.0e-4
    min_lr: NonNegative = 0.0
    warmup_start_lr: NonNegative = 0.0
    warmup_steps: Annotated[Int, Field(ge=0)] = 0
    weight_decay: NonNegative = 0.05
    beta1: Fraction = 0.9
    beta2: Fraction = 0.999
    eps: Annotated[Float, Field(gt=0)] = 1.0e-8
    clip_norm: NonNegative = 0.0  # 0 = no clipping
    log_every: Count = 1
    validate_every: Count = 500
    validation_samples: Count = 1000
    checkpoint_every: Count = 500
    keep_checkpoints: Annotated[Int, Field(ge=2)] = 2
    # Samples of a rank in one forward pass; with fewer ranks micro-batches become smaller instead. 0 = any number.
    max_rank_batch: Annotated[Int, Field(ge=0)] = 0
    permanent_every: Annotated[Int, Field(ge=0)] = 0  # checkpoints of every so many steps stay for ever; 0 = none do
    max_skipped_in_a_row: Count = 20  # non-finite steps in a row before the run stops
    spike_deviations: NonNegative = 6.0  # a loss so many standard deviations above the last ones is odd; 0 = none is
    spike_window: Annotated[Int, Field(ge=2)] = 128  # how many they are
    spike_patience: Count = 3  # so many odd losses in a row are a spike: back to the checkpoint, without their batches
    max_rollbacks: Annotated[Int, Field(ge=0)] = 20  # spikes before the run stops
    replica_check_every: Annotated[Int, Field(ge=0)] = 100  # steps between checks of the ranks' equality; 0 = never
    on_collapse: Remedies = ("warn",)  # of the codebook: what else is done beside the warning

    @property
    def micro_batch(self) -> int:
        """Samples of all ranks in one forward pass."""
        return self.global_batch // self.accumulation


@dataclass(frozen=True, config=_STRICT)
class EngineConfig:
    """How the engine runs: `auto` picks by device and compute capability. Engine knobs live in ds_configs/*.json."""

    precision: Literal["auto", "fp32", "fp16", "bf16"] = "auto"
    deepspeed: Str = "auto"  # a file of ds_configs/, or a path
    collective_timeout_s: Annotated[Float, Field(gt=0)] = 600.0
    # Without a sign of life for longer, a rank is taken for hung. Phases that are not named get a share of the above.
    phase_timeout_s: dict[Phase, Annotated[Float, Field(gt=0)]] = Field(default_factory=dict)
    straggler_factor: Annotated[Float, Field(gt=1)] = 2.0  # so much slower than the others is worth a warning


@dataclass(frozen=True, config=_STRICT)
class EvalConfig:
    """What `python -m seed_dist.eval` measures."""

    batch_size: Count = 256
    caption_samples: Count = 1000
    paint_samples: Count = 200
    paint_steps: Count = 20
    guidance: NonNegative = 2.0


@dataclass(frozen=True, config=_STRICT)
class Recipe:
    """A complete run of all stages."""

    name: Str
    seed: Int
    backbones: BackboneConfig
    qformer: QFormerConfig
    codebook: CodebookConfig
    lora: LoraConfig
    causal_qformer_training: TrainConfig
    codebook_training: TrainConfig
    lora_training: TrainConfig
    engine: EngineConfig
    eval: EvalConfig
    views: Count = 1  # of each training image, among which the tokenizer stages draw; data_prep/encode.py makes them
    data: DataConfig = DataConfig()

    def training(self, stage: StageName) -> TrainConfig:
        trainings = (self.causal_qformer_training, self.codebook_training, self.lora_training)
        return dict(zip(STAGES, trainings, strict=True))[stage]

    def as_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def fingerprint(self) -> str:
        """16 hex digits; a recipe keeps those that it had before there were mixtures and remedies, if it has none."""
        values = self.as_dict()
        for stage in STAGES:
            if self.training(stage).on_collapse == ("warn",):
                del values[f"{stage}_training"]["on_collapse"]
        if self.data == DataConfig():
            del values["data"]
        return fingerprint(values)


class _Loader(yaml.SafeLoader):
    """YAML 1.1 reads 1e-4 as a string; everybody means a number."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def recipe_names() -> list[str]:
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def load_recipe(name_or_path: str, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe of that name, or of that YAML file, with `section.option=value` overrides applied.

    Raises ConfigError with every problem: unknown recipe, unknown option, value of a wrong type or out of range.
    """
    path = Path(name_or_path) if name_or_path.endswith((".yaml", ".yml")) else RECIPES / f"{name_or_path}.yaml"
    if not path.is_file():
        raise ConfigError(
            [f"recipe {name_or_path!r} is unknown; choose one of {', '.join(recipe_names())}, or give a .yaml file"]
        )
    try:
        values = yaml.load(path.read_text(), Loader=_Loader)  # noqa: S506 - a SafeLoader
    except yaml.YAMLError as error:
        raise ConfigError([f"{path} is not YAML: {error}"]) from error
    if not isinstance(values, dict):
        raise ConfigError([f"{path} holds {type(values).__name__}, but a mapping of sections is needed"])
    problems = [problem for item in overrides if (problem := _apply_override(values, item))]
    return _validated(values, str(path), problems)


def recipe_from_dict(values: dict[str, Any], origin: str) -> Recipe:
    """The recipe that a run directory recorded."""
    return _validated(values, origin, [])


def _apply_override(values: dict[str, Any], item: str) -> str | None:
    """Set one dotted option in place; the value is a problem text, or None."""
    dotted, equals, text = item.partition("=")
    if not equals or not dotted:
        return f"override {item!r} must have the form section.option=value"
    *sections, option = dotted.split(".")
    node = values
    for section in sections:
        node = node.setdefault(section, {})
        if not isinstance(node, dict):
            return f"override {item!r}: {section!r} is an option, not a section"
    try:
        node[option] = yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader
    except yaml.YAMLError as error:
        return f"override {item!r}: the value is not YAML: {error}"
    return None


def _validated(values: dict[str, Any], origin: str, problems: list[str]) -> Recipe:
    try:
        recipe = TypeAdapter(Recipe).validate_python(values)
    except ValidationError as error:
        raise ConfigError([*problems, *(_describe(detail, origin) for detail in error.errors())]) from None
    problems = problems + _cross_checks(recipe)
    if problems:
        raise ConfigError(problems)
    return recipe


def _describe(detail: Any, origin: str) -> str:
    option = ".".join(str(part) for part in detail["loc"])
    if detail["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        return f"{origin}: option {option} is unknown; {_known_options(detail['loc'][:-1])}"
    if detail["type"] in ("missing", "missing_argument"):
        return f"{origin}: option {option} is missing"
    return f"{origin}: option {option} is {detail['input']!r}; {detail['msg'][0].lower()}{detail['msg'][1:]}"


def _known_options(sections: Sequence[Any]) -> str:
    owner: Any = Recipe
    for section in sections:
        if isinstance(section, int):  # a place in a list, whose class is known already
            continue
        types = get_type_hints(owner)
        element = get_args(types.get(section))[:1] or (types.get(section),)
        owner = element[0]
        if not dataclasses.is_dataclass(owner):
            return "remove it"
    return f"known here: {', '.join(field.name for field in dataclasses.fields(owner))}"


def _cross_checks(recipe: Recipe) -> list[str]:
    """Rules between options."""
    problems = []
    width, decoder_heads = recipe.qformer.width, recipe.codebook.decoder_heads
    for option, heads in (("qformer.heads", recipe.qformer.heads), ("codebook.decoder_heads", decoder_heads)):
        if width % heads:
            problems.append(f"qformer.width {width} must be a multiple of {option} {heads}")
    if recipe.lora.image_embedding == "codebook" and recipe.lora.rows_from_codebook:
        problems.append(
            "lora.rows_from_codebook is true, but with lora.image_embedding codebook no rows are read for codes; set "
            "it to false"
        )
    for stage in STAGES:
        training = recipe.training(stage)
        if training.global_batch % training.accumulation:
            problems.append(
                f"{stage}_training.global_batch {training.global_batch} must be a multiple of accumulation "
                f"{training.accumulation}"
            )
        if training.permanent_every % training.checkpoint_every:
            problems.append(
                f"{stage}_training.permanent_every {training.permanent_every} must be a multiple of checkpoint_every "
                f"{training.checkpoint_every}, or 0 for no permanent checkpoints"
            )
        if stage != "codebook" and training.on_collapse != ("warn",):
            problems.append(f"{stage}_training.on_collapse is given, but only the stage codebook has a codebook")
        if training.warmup_steps >= training.steps:
            problems.append(
                f"{stage}_training.warmup_steps {training.warmup_steps} must be below steps {training.steps}"
            )
    return problems + recipe.data.problems()
