"""Helpers of all commands: console, devices, files, pictures, optional packages."""
