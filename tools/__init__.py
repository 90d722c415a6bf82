"""Builders of what is shipped, and checks of it."""
