"""Reads exports whose labels are mask files: one module a format."""
