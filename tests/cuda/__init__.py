"""The CUDA device, driven through a stand-in for the driver (a test double)."""
