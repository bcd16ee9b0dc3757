"""Synthetic portraits with known parameters: people in 3D, and any scene they can be seen in."""
