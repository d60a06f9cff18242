"""A training run: its settings, its steps, its folder, and the metrics of an evaluation."""
