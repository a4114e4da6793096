"""What a run leaves: the manifest, results, and looking after them."""
