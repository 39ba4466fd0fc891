"""What is measured against what; see `python -m benchmarks --help`."""

import os

# Read when Prefect is imported: its log lines are no part of a measurement, and no use on the terminal.
os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
