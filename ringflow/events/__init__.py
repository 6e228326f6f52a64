"""Events: what happened, as plain frozen values, and their form on disk."""
