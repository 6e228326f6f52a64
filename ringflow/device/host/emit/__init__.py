"""PTX instructions to LLVM IR text, one module for each family of instructions."""
