"""What ``dpinn doctor`` finds out about this machine: what a support thread would ask first."""

from dpinn.doctor.finding import Finding, State

__all__ = ["Finding", "State"]
