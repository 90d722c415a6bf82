"""Train SAEs on the whole model's loss: standard, frozen, intrusive, non-intrusive (seed 004)."""
