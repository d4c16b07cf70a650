"""syndd: the long-lived process. Nothing in `synd` imports it."""
