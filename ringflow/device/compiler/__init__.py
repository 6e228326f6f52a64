"""From CUDA C++ to code that a device loads: clang's PTX for the host, NVRTC's cubins for GPUs."""
