#!/usr/bin/env bash
# Build the image of docker/Dockerfile for CPUs without a Docker daemon and without a registry: on
# Debian from debootstrap, with buildah, as root. It lies in FOLDER, 5 GB, until FOLDER is removed.
# apt and pip fetch from where they do on this machine; TORCH_INDEX names an index with torch for
# CPUs where pip would find CUDA's.
#
#   docker/build_cpu.sh FOLDER
#   docker/run_cpu.sh FOLDER dpinn fit --config /opt/dpinn/configs/quick/burgers.yaml
set -euo pipefail
repository=$(cd "$(dirname "$0")/.." && pwd)
release=bookworm

refuse() {
    echo "build_cpu.sh: $1" >&2
    exit 2
}
(($# == 1)) || refuse "give one folder to build in: docker/build_cpu.sh FOLDER"
[[ ! -e $1 || -z $(ls -A "$1") ]] || refuse "$1 is not an empty folder; give another one"
((EUID == 0)) || refuse "debootstrap and buildah need root here; start it as root"
for program in buildah debootstrap; do
    [[ -n $(type -P "$program") ]] || refuse "no $program; apt-get install buildah debootstrap"
done
# What is mounted here ends with this process, however it ends: FOLDER can always be removed.
[[ -n ${UNSHARED:-} ]] || UNSHARED=1 exec unshare --mount "$0" "$@"
mkdir -p "$1"
folder=$(cd "$1" && pwd)

# Overlays where the kernel lays them over that folder; vfs works everywhere and copies each layer.
export CONTAINERS_STORAGE_CONF=$folder/storage.conf
cat >"$CONTAINERS_STORAGE_CONF" <<END
[storage]
driver = "overlay"
graphroot = "$folder/storage"
runroot = "$folder/storage/run"
END
mkdir "$folder/tmp"
export TMPDIR=$folder/tmp
buildah info >/dev/null 2>&1 || sed -i 's/overlay/vfs/' "$CONTAINERS_STORAGE_CONF"

# The mirror that apt uses here, where this is the same release of Debian.
mirror=$(apt-get indextargets --format '$(REPO_URI)' "Codename: $release" | head -n 1)
debootstrap --variant=minbase "$release" "$folder/debian" ${mirror:+"$mirror"}
base=$(buildah from scratch)
buildah add "$base" "$folder/debian" /
buildah commit --rm "$base" "localhost/debian:$release"
rm -rf "$folder/debian"

python3 "$repository/docker/pip_configuration.py" "$folder/pip.conf" >"$folder/pip.options"
mapfile -t pip <"$folder/pip.options"
buildah bud --isolation chroot --pull-never --layers=false "${pip[@]}" \
    --build-arg BASE="localhost/debian:$release" --build-arg TORCH_INDEX="${TORCH_INDEX:-}" \
    --tag localhost/dpinn:cpu --file "$repository/docker/Dockerfile" "$repository"
rm "$folder"/pip.*
buildah from --pull-never --name dpinn localhost/dpinn:cpu
mkdir -m 1777 "$folder/work"
