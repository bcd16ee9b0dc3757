"""Photographs or parameters to 3D condition maps."""
