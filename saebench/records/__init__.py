"""What is written and read back: runs, baselines, repairs, trainings. Data, and questions to it."""
