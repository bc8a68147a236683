"""All checks, in the order in which their findings are shown."""

CHECKS = {
    "machine": "machine.machine",
    "python": "packages.python",
    "dpinn": "packages.own_package",
    "torch": "packages.torch_build",
    "lightning": "packages.package",
    "mlflow": "packages.package",
    "deepspeed": "packages.package",
    "other packages": "packages.others",
    "GPUs": "devices.gpus",
    "matmul": "precision.matmul",
    "threads": "threads.threads",
    "compiler": "compiling.compiler",
    "gloo": "ranks.gloo",
    "NCCL": "ranks.nccl",
    "SLURM": "cluster.slurm",
    "SLURM job": "job.job",
    "MLflow store": "tracking.mlflow_store",
    "cache folder": "storage.cache_folder",
    "current folder": "storage.current_folder",
    "temporary folder": "storage.temporary_folder",
}
"""Each by the name of its finding: a function of this package, see `dpinn.doctor.finding`."""
