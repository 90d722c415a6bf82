"""Layouts of SAE directories: how to know one, what it says of itself, how to load it."""
