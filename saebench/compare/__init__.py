"""Paired differences: run against run, SAE against baseline, SAE against its controls."""
