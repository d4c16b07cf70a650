"""What synd costs and gains, as ratios: against the native file system, and what a user would take instead."""
