#!/usr/bin/env bash
# The ten benchmarks at laptop scale (configs/quick), one after another, into runs/quick, then
# the table of their errors. Finished runs are left alone and broken ones go on, so it may be stopped
# and started again. Further arguments go to `dpinn fit`.
#
#   launch/benchmarks.sh
#   PROBLEMS="kdv wave" CONFIGS=hour launch/benchmarks.sh
#   dpinn results runs/quick
set -euo pipefail
configs=$(cd "$(dirname "$0")/../configs/${CONFIGS:-quick}" && pwd)
problems=${PROBLEMS:-"wave burgers allen_cahn kdv kuramoto_sivashinsky gray_scott ginzburg_landau
    lid_driven_cavity kolmogorov rayleigh_taylor"}
runs=${RUNS:-runs/${CONFIGS:-quick}}

trap 'exit 130' INT
trap 'exit 143' TERM
failed=0
for problem in $problems; do
    begun=("$runs/$problem"-*/checkpoints/last.ckpt)
    if grep -qs '"finished": true' "$runs/$problem"-*/evaluation.json; then
        echo "$problem: finished before"
        continue
    elif [[ -e ${begun[0]} ]]; then
        command=(dpinn fit --resume "$(dirname "$(dirname "${begun[0]}")")")
    else
        command=(dpinn fit --config "$configs/$problem.yaml" --tracking.output "$runs")
    fi
    echo "${command[*]} $*"
    "${command[@]}" "$@" || failed=$((failed + 1))
done
dpinn results "$runs"
if ((failed)); then
    echo "$failed runs failed; start again to go on with them" >&2
    exit 1
fi
