"""Append-only migrations of the results database, applied in the order of their numbers."""
