"""Sets of training runs whose results stand in one table; ``python -m difnet.experiment`` runs them."""
