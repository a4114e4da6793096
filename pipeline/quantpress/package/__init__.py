"""What leaves this machine: packages, uploads and bundles."""
