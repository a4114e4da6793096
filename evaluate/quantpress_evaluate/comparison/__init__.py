"""Two scored sides, compared document by document; without lm-eval."""
