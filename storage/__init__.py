"""Bytes in, bytes out: stores, shards, manifests, commits, checkpoints."""
