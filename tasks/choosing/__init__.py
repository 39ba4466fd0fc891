"""From scores to a layer, and what it was worth: inflection points, rules, audit."""
