"""Launching trainings on clusters."""
