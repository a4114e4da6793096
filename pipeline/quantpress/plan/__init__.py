"""A recipe made explicit for one model and one machine, before a weight is read."""
