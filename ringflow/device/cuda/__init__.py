"""What needs an NVIDIA driver."""
