"""Turns the annotations of images, as the tools write them, into shapes."""
