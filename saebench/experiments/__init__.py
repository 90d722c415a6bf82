"""One class for each kind of measurement: how it is divided, measured and merged."""
