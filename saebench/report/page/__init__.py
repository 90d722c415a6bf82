"""Pages for a browser: one self-contained file, which asks no network for anything."""
