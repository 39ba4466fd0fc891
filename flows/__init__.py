"""What runs, and in what order: recipes, read top to bottom."""
