"""How a training comes to its ranks: launchers, and SLURM's jobs (``dpinn submit``, ``jobs``)."""
