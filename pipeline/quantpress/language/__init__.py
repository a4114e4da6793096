"""What the YAML files of people share: places in them, validation, overrides, and what is shipped."""
