"""SAE formats: how SAE directories on disk are recognised, checked and loaded."""
