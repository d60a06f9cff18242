"""The commands of ``python -m difnet.data``."""
