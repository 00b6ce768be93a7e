"""CUDA: a plan as kernels and products, captured as one graph."""
