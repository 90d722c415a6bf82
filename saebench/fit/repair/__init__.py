"""Undo feature suppression in a trained SAE by fine-tuning it without the penalty (seed 003)."""
