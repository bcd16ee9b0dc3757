"""Condition maps and embeddings to images: the InstaFace networks."""
