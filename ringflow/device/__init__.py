"""Devices: what runs kernels, and what makes kernels runnable."""
