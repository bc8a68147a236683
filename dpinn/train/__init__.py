"""Training under Lightning: the module, the data, the record of a run, the command line."""

from dpinn.train.data import Collocations
from dpinn.train.module import PINNTraining
from dpinn.train.recording import Recorder
from dpinn.train.stages import Curriculum, Stage, Stages, TimeWindows
from dpinn.train.strategies import ReplicatedStrategy

__all__ = [
    "Collocations",
    "Curriculum",
    "PINNTraining",
    "Recorder",
    "ReplicatedStrategy",
    "Stage",
    "Stages",
    "TimeWindows",
]
