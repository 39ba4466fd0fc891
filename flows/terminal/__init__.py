"""What a person sees in a terminal: tables, plan, doctor, rows of a query."""
