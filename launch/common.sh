# shellcheck shell=bash disable=SC2034
# What the scripts of this folder share; they read it, nobody starts it.

usage() { # the comment at the top of the script
    sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"
}

fail() { # one sentence, and the exit code of wrong usage
    echo "${0##*/}: $1" >&2
    exit 2
}

show_usage_if_asked() {
    case ${1-} in
        -h | --help) usage && exit 0 ;;
        "") usage >&2 && exit 2 ;;
    esac
}

# CONFIG [options] to the arguments of `dpinn fit`, in the array `fit`. Options alone do as well, as
# in `--resume RUN`.
read_arguments() {
    show_usage_if_asked "$@"
    if [[ $1 == -* ]]; then
        fit=(fit "$@")
    elif [[ -f $1 ]]; then
        fit=(fit --config "$@")
    else
        fail "there is no configuration $1 in $PWD; give the path of a YAML file, for example one \
of $(dirname "$(dirname "$(realpath "$0")")")/configs"
    fi
}

require_program() {
    command -v "$1" >/dev/null ||
        fail "there is no program $1 on the PATH; activate the virtual environment in which \
${2:-dpinn} is installed"
}

# The interpreter starts the ranks itself, so that all have the one that has dpinn.
require_python_with() {
    require_program python
    python -c "import importlib.util as u; raise SystemExit(u.find_spec('$1') is None)" ||
        fail "$1 is not installed for $(command -v python); activate the virtual environment in \
which it is, or install it with: $2"
}

require_whole() { # NAME VALUE SMALLEST [LARGEST]
    if ! [[ $2 =~ ^[0-9]{1,9}$ ]] || ((10#$2 < $3 || 10#$2 > ${4:-10#$2})); then
        fail "$1 is '$2'; it must be a whole number from $3 ${4:+to }${4:-on}"
    fi
}

port_in_use() { # HOST PORT
    # shellcheck disable=SC2016
    timeout 5 bash -c 'exec 3<>"/dev/tcp/$1/$2"' bash "$1" "$2" 2>/dev/null
}

count_gpus() {
    python -c "import torch; print(torch.cuda.device_count())"
}

# How many ranks this node gets: what NPROC_PER_NODE says, or one for each GPU.
ranks_per_node() {
    local ranks=${NPROC_PER_NODE-}
    if [[ -z $ranks ]]; then
        ranks=$(count_gpus)
        ((ranks)) || fail "there is no GPU on $(hostname); set NPROC_PER_NODE to the number of \
processes to train with on its cores"
    fi
    require_whole NPROC_PER_NODE "$ranks" 1
    echo $((10#$ranks))
}

share_cores() { # RANKS on this node
    local cores
    cores=$(nproc)
    export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((cores > $1 ? cores / $1 : 1))}
}

# Say what is started, on one line, and become it: signals reach it without a shell between.
start() {
    echo "OMP_NUM_THREADS=$OMP_NUM_THREADS $(printf '%q ' "$@")"
    exec "$@"
}
