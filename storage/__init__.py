"""What lies where, and nothing else: no torch, no prefect, no scikit-learn."""
