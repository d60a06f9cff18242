"""Measuring time, memory and the rates of the machine's arithmetic units. Knows nothing of the operator."""
