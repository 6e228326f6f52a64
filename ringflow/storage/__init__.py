"""Checkpoints, their file format, and where they are kept."""

from __future__ import annotations

from ringflow.storage.api import CheckpointStorage
from ringflow.storage.blocks import BLOCK_BYTES, block_digests, differing_blocks, region_digest
from ringflow.storage.checkpoint import Checkpoint, CheckpointBuilder
from ringflow.storage.chunks import ChunkType, DataChunk
from ringflow.storage.file import FileStorage
from ringflow.storage.format_v1 import MAX_CHECKPOINT_SIZE
from ringflow.storage.headers import (
    CHECKPOINT_MAGIC,
    CHECKPOINT_VERSION_1,
    CheckpointHeader,
    ChunkHeader,
)
from ringflow.storage.memory import MemoryStorage
from ringflow.storage.metadata import CheckpointMetadata, HlcTimestamp, RecoveryFacts
from ringflow.storage.objects import ObjectStore

__all__ = [
    "BLOCK_BYTES",
    "CHECKPOINT_MAGIC",
    "CHECKPOINT_VERSION_1",
    "MAX_CHECKPOINT_SIZE",
    "Checkpoint",
    "CheckpointBuilder",
    "CheckpointHeader",
    "CheckpointMetadata",
    "CheckpointStorage",
    "ChunkHeader",
    "ChunkType",
    "DataChunk",
    "FileStorage",
    "HlcTimestamp",
    "MemoryStorage",
    "ObjectStore",
    "RecoveryFacts",
    "block_digests",
    "differing_blocks",
    "region_digest",
]
