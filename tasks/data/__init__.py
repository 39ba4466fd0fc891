"""Labelled text from hub, file or wheel: a clean, fingerprinted table."""
