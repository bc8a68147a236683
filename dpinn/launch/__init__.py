"""How a training comes to its ranks: launchers, SLURM jobs."""
