"""What the operator needs of PyTorch: operators with derivatives, autocast, counts, DTensors, layouts."""
