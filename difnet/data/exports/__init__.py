"""Reads what annotation tools export: one module a format, which recognises its exports."""
