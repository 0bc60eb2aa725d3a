"""PipelineConfig: the stages' own settings, composed. Run form, schedule and command line all are this object.

RetrainConfig: when a scheduled run builds one.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, GetJsonSchemaHandler, model_validator
from pydantic_core import CoreSchema

from slm_model.config import Config
from slm_model.data.config import CleanConfig, SplitConfig
from slm_model.data.sources.config import HubSource, SourceConfig
from slm_model.evaluation.config import EvaluateConfig
from slm_model.networks.config import NetworkConfig, TransformerConfig
from slm_model.shards.config import ShardConfig
from slm_model.tokenizer.config import BpeConfig, VocabConfig
from slm_model.training.config import TrainConfig
from tasks.tracking.release import ReleaseConfig

if TYPE_CHECKING:
    from slm_model.data.report.drift import Drift


class PipelineConfig(Config):
    """Everything that decides what model is built. The default is TinyStories from the hub."""

    source: SourceConfig = Field(HubSource(), description="Where the stories come from.")
    clean: CleanConfig = Field(CleanConfig(), description="Which stories are kept.")
    split: SplitConfig = Field(SplitConfig(), description="How stories are divided among the splits.")
    vocab: VocabConfig = Field(BpeConfig(), description="How text becomes tokens.")
    shard: ShardConfig = Field(ShardConfig(), description="How token ids are stored.")
    model: NetworkConfig = Field(TransformerConfig(), description="The network.")
    train: TrainConfig = Field(TrainConfig(), description="How the network is trained.")
    evaluate: EvaluateConfig = Field(EvaluateConfig(), description="How the model is examined.")
    release: ReleaseConfig = Field(ReleaseConfig(), description="Under which name, and past which gate.")

    @model_validator(mode="before")
    @classmethod
    def _no_english_prompts(cls, settings: Any) -> Any:
        """In a corpus of any language, sample stories begin without a prompt where none is set."""
        clean = settings.get("clean") if isinstance(settings, dict) else None
        language = clean.get("language") if isinstance(clean, dict) else getattr(clean, "language", None)
        if language == "any":
            settings = dict(settings)
            for section, prompts in (("train", "sample_prompts"), ("evaluate", "prompts")):
                given = settings.get(section, {})
                if isinstance(given, dict):
                    settings[section] = {prompts: ("",)} | given
        return settings

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """The sections that come in kinds are given fields of their own: Prefect's form draws those, and would show a
        choice between kinds as JSON. What a kind may have is still checked by its own schema, in ``oneOf``."""
        schema = handler(core_schema)
        for section in handler.resolve_ref_schema(schema)["properties"].values():
            if "oneOf" in section:
                kinds = [handler.resolve_ref_schema(one)["properties"] for one in section["oneOf"]]
                section |= {"type": "object", "properties": _all_fields(kinds, section["default"]["kind"])}
                section["default"] = {"kind": section["default"]["kind"]}
        return schema


def _all_fields(kinds: list[dict[str, Any]], usual: str) -> dict[str, Any]:
    """The fields of all kinds, each with the kinds that have it, and without a default: what is left empty is not sent,
    so that the kind can be changed and nothing of the other one is in the way."""
    names = [kind["kind"]["const"] for kind in kinds]
    kind_field = {"title": "Kind", "type": "string", "enum": names, "default": usual}
    found: dict[str, Any] = {"kind": kind_field | {"description": "What is left empty below is the kind's default."}}
    # A switch that nobody touched is sent as false, also to a kind that has no such field: it is set elsewhere.
    drawn = (field for kind in kinds for field in kind if field != "kind" and kind[field].get("type") != "boolean")
    for field in dict.fromkeys(drawn):
        kinds_of: dict[str, list[str]] = {}  # by description
        for name, kind in zip(names, kinds, strict=True):
            if field in kind:
                default = json.dumps(kind[field]["default"]).replace("null", "None")
                kinds_of.setdefault(f"{kind[field]['description']} Default {default}.", []).append(name)
        widest = max((kind[field] for kind in kinds if field in kind), key=lambda schema: len(schema.get("anyOf", ())))
        texts = [text if len(some) == len(kinds) else f"*{', '.join(some)}*: {text}" for text, some in kinds_of.items()]
        shape = {key: widest[key] for key in ("title", "type", "anyOf") if key in widest}
        found[field] = shape | {"description": "\n\n".join(texts)}
    return found


class RetrainConfig(Config):
    """When a scheduled run builds a model. Bits are Jensen-Shannon divergences, from 0 (equal) to 1 (disjoint)."""

    when: Literal["changed", "drifted"] = Field(
        "changed",
        description="changed: stories, settings or code are other than the last model's. drifted: new stories are a "
        "reason only when they have drifted.",
    )
    keep: Literal["nothing", "vocabulary", "weights"] = Field(
        "nothing",
        description="What a model takes over from the champion, where there is one. vocabulary: its tokens, whatever "
        "vocab says. weights: its tokens, and its weights to begin with.",
    )
    max_length_drift_bits: float = Field(
        0.02,
        ge=0,
        le=1,
        description="Stories have drifted if their lengths are further than this from the last model's stories.",
    )
    max_word_drift_bits: float = Field(
        0.05,
        ge=0,
        le=1,
        description="Stories have drifted if their words are further than this from the last model's stories.",
    )

    def is_drift(self, drift: Drift) -> bool:
        return drift.length_bits > self.max_length_drift_bits or drift.word_bits > self.max_word_drift_bits

    def in_words(self, drift: Drift | None) -> str:
        """How far it is from counting as drift."""
        lengths, words = (drift.length_bits, drift.word_bits) if drift else (0.0, 0.0)
        return (
            f"have drifted by {lengths:.4f} bits in length and {words:.4f} in words "
            f"(beyond {self.max_length_drift_bits} or {self.max_word_drift_bits} is drift)"
        )
