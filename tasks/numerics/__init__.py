"""Kernels: arrays in, arrays out. No Prefect, no Polars, no transformers."""
