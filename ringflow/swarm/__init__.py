"""The swarm: random scenarios in simulated worlds, what must hold checked, failures made short."""
