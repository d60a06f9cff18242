"""Showing rows: tables for the terminal and for Markdown, plots, and the generated documents."""
