"""Confidence intervals and p-values, by resampling sequences, never tokens."""
