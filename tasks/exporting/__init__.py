"""The chosen layer as a model: cut, head, checks, model card."""
