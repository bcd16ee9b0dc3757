"""A complete configuration: one frozen dataclass a stage. The presets themselves are functions in flows/presets.py."""

from __future__ import annotations

from dataclasses import dataclass

from tasks.edit_config import EditConfig, EvaluateConfig, FinetuneConfig
from tasks.encode import EncodeConfig
from tasks.extract import ExtractConfig
from tasks.shard import ShardConfig
from tasks.train_config import TrainConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class Preset:
    name: str
    needs: tuple[str, ...]
    """Weights that the user must bring, in words."""
    shard: ShardConfig
    extract: ExtractConfig
    encode: EncodeConfig
    train: TrainConfig
    finetune: FinetuneConfig
    edit: EditConfig
    evaluate: EvaluateConfig
