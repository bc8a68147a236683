#!/usr/bin/env bash
# Run a command in the image that docker/build_cpu.sh made in FOLDER, as a user whom the image does not
# know. FOLDER/work is /work there, the current folder.
#
#   docker/run_cpu.sh FOLDER dpinn fit --config /opt/dpinn/configs/quick/burgers.yaml
set -euo pipefail

refuse() {
    echo "run_cpu.sh: $1" >&2
    exit 2
}
(($# >= 2)) || refuse "give a folder and a command: docker/run_cpu.sh FOLDER dpinn --help"
[[ -d $1/work ]] || refuse "there is no image in $1; build one: docker/build_cpu.sh FOLDER"
((EUID == 0)) || refuse "buildah needs root here; start it as root"
[[ -n ${UNSHARED:-} ]] || UNSHARED=1 exec unshare --mount "$0" "$@"
folder=$(cd "$1" && pwd)
shift
export CONTAINERS_STORAGE_CONF=$folder/storage.conf
exec buildah run --isolation chroot --user 4242:4242 \
    --volume "$folder/work:/work" --workingdir /work dpinn -- "$@"
