"""The host device: the kernel that a GPU would run, on worker threads of the CPU."""
