"""synd: Synapse as a folder. Import what you need from its modules; importing this loads nothing else."""
