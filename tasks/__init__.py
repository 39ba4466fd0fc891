"""One job per module: pure functions, with the Prefect task as a thin shell at the bottom."""
