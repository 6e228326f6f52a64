"""Tests of checkpoints and their storage."""
