"""The merging arithmetic: pure torch, no files, no host, no user interface."""
