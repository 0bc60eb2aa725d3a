"""PipelineConfig: the stages' own settings, composed. Run form, schedule and command line all are this object."""

from __future__ import annotations

from pydantic import Field

from slm_model.artifact import Config
from slm_model.data.config import CleanConfig, SplitConfig
from slm_model.data.shards import ShardConfig
from slm_model.data.source import HubSource, SourceConfig
from slm_model.evaluation.config import EvaluateConfig
from slm_model.networks.config import NetworkConfig, TransformerConfig
from slm_model.tokenizer.config import BpeConfig, VocabConfig
from slm_model.training.config import TrainConfig
from tasks.release import ReleaseConfig


class PipelineConfig(Config):
    """Everything that decides what model is built. The default is TinyStories from the hub."""

    source: SourceConfig = Field(HubSource(), description="Where the stories come from.")
    clean: CleanConfig = Field(CleanConfig(), description="Which stories are kept.")
    split: SplitConfig = Field(SplitConfig(), description="How stories are shared out among the sides.")
    vocab: VocabConfig = Field(BpeConfig(), description="How text becomes tokens.")
    shard: ShardConfig = Field(ShardConfig(), description="How token ids are stored.")
    model: NetworkConfig = Field(TransformerConfig(), description="The network.")
    train: TrainConfig = Field(TrainConfig(), description="How the network is trained.")
    evaluate: EvaluateConfig = Field(EvaluateConfig(), description="How the model is examined.")
    release: ReleaseConfig = Field(ReleaseConfig(), description="Under which name, and past which gate.")
