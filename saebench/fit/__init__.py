"""Fitting an SAE's parameters on streamed data: streams, the loop, convergence, checkpoints."""
