"""What a run leaves for people: its record, answer, figure, report, artifacts."""
