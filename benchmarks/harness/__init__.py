"""Measuring the operator and the network: cases, providers, the check against float64, rows of results."""
