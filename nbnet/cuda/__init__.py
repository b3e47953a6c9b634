"""The NVIDIA backend: twins of `nbnet.cpu` under the same names, compiled by numba-cuda."""
