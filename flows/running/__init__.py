"""What carries a recipe: engines, the local server, progress, limits, deploying."""
