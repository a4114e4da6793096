"""What figures mean: intervals, powers and verdicts, each with its formula and where it comes from."""
