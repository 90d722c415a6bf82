"""The judge: prepares subjects, model and data, measures once, decides every case."""
