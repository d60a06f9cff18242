"""Checks of whole data sets: what is in them, what is wrong, and pages that show it."""
