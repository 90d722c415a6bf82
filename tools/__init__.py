"""Builders and checks of the shipped data."""
