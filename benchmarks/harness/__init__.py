"""What is compared: cases, providers, the truth, the comparison, and the rows that a run writes."""
