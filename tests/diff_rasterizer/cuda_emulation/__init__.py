"""Runs the CUDA kernels without a GPU, for tests; see docs/cuda_emulation.md."""
