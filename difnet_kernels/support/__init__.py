"""Integration with PyTorch: operators with derivatives, autocast, counting, DTensors, memory layouts."""
