"""Scenarios: readable files of commands and expected events, run in a simulated world."""
