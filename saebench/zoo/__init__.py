"""The embedded zoo: a small language model and its sparse autoencoders."""
