"""A model as it lies on disk: its files, headers, shapes and layers."""
