"""Kernels for the CPU, on tiles of vector registers."""
