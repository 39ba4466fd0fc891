"""Bad input of every kind, the command that meets it, and what is seen: the cases behind docs/bad-input.md."""
