"""The engine: machines decide, the journal makes it durable, performers do it on devices."""
