"""Files: results, baselines, per-sequence sums, the leaderboard; versions and machine."""
