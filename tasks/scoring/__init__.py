"""What a layer's scores are made of: silhouettes, criteria, probe."""
