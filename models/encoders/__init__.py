"""Frozen encoders: VAE, semantics, face recognition."""
