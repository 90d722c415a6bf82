"""Build the embedded zoo: its model, its SAEs, its card."""
