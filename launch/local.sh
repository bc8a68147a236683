#!/usr/bin/env bash
# One process: a training on one GPU, or on the cores of this machine.
#
#   launch/local.sh CONFIG [options of dpinn fit]
#   launch/local.sh --resume RUN
#
# OMP_NUM_THREADS   threads; all cores if not set
#
# SIGTERM and SIGUSR1 to this process (it becomes dpinn) save and end the training; it goes on with
# --resume RUN.
set -euo pipefail
# shellcheck source=launch/common.sh
source "$(dirname "$(realpath "$0")")/common.sh"

read_arguments "$@"
require_program dpinn
share_cores 1
start dpinn "${fit[@]}"
