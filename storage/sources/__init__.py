"""Where models and data sets come from: the grammar, the hub, registry wheels."""
