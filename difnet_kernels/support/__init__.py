"""What the operator needs of PyTorch: operators with derivatives, autocast, FLOP counts, DTensors, layouts."""
