"""A simulated world for the engine: virtual time, seeded order, files that crash, faults anywhere.

- The engine's own code runs in it, unchanged; what differs is who performs: one ``step`` at a time.
- One seed, one journal, byte for byte, in every process.
"""
