"""A checkpoint that was made elsewhere, taken as an artifact: what its files say, and its place beside ours."""
