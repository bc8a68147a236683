"""Trainings as jobs of SLURM: submitted (``dpinn submit``), listed (``dpinn jobs``), requeued."""
