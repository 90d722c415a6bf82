"""The embedded demo zoo: a story model, its SAEs, and the texts they are judged on."""
