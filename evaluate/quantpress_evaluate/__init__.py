"""The evaluate stage: lm-eval on a checkpoint and on the unquantized model, and what the difference means."""
