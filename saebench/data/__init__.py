"""Texts, token sequences and cloze prompts: read from files, data sets and Python objects."""
