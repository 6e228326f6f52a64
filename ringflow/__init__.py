"""ringflow: persistent GPU kernels that are checkpointed, migrated and reloaded while they work."""
