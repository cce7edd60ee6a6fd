"""Report, card and record of a run, and its way to the hub."""
