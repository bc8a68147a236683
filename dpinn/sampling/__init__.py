"""Collocation points as a pure function of seed and step."""

from dpinn.sampling.collocation import Collocation, rank_slice

__all__ = ["Collocation", "rank_slice"]
