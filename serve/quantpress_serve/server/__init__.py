"""A vLLM server: started, watched, explained."""
