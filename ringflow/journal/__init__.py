"""The journal: one gapless sequence of records, acknowledged only once it is durable."""
