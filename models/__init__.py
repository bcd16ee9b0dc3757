"""Tensors in, tensors out: 3D faces, diffusion networks, frozen encoders."""
