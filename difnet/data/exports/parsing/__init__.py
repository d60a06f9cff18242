"""Turns the annotations of single images, as the tools write them, into shapes."""
