#!/usr/bin/env bash
# The MLflow tracking server: runs in a database, their files in a folder, both over HTTP.
#
#   launch/mlflow.sh [options of mlflow server]
#   MLFLOW_HOST=0.0.0.0 launch/mlflow.sh --app-name basic-auth
#
# Settings are MLflow's own:
#
# MLFLOW_HOST                     address to listen on; 127.0.0.1 if not set, this machine alone.
#                                 0.0.0.0 lets in all that reach this machine; ask for a password
# MLFLOW_PORT                     5000 if not set
# MLFLOW_BACKEND_STORE_URI        database, as SQLAlchemy names it:
#                                 postgresql+psycopg2://USER:PASSWORD@HOST/DATABASE; sqlite:///mlflow.db in
#                                 the current folder if not set
# MLFLOW_ARTIFACTS_DESTINATION    folder or bucket for files; ./mlartifacts if not set
# MLFLOW_SERVER_ALLOWED_HOSTS     names under which clients may call this machine; private addresses
#                                 and its own names if not set
set -euo pipefail
# shellcheck source=launch/common.sh
source "$(dirname "$(realpath "$0")")/common.sh"

[[ $# == 0 ]] || show_usage_if_asked "$1"
host=${MLFLOW_HOST:-127.0.0.1}
port=${MLFLOW_PORT:-5000}
require_whole MLFLOW_PORT "$port" 1 65535
require_program mlflow
if port_in_use "$host" "$port"; then
    fail "port $port on $host is in use; set MLFLOW_PORT to another one"
fi

name=$host
if [[ $host != 127.* && $host != localhost && $host != ::1 ]]; then
    own=$(hostname)
    name=$(hostname -f 2>/dev/null || echo "$own")
    # MLflow's default, and the names of this machine, which it would refuse.
    hosts="localhost,localhost:*,127.0.0.1,127.0.0.1:*,10.*,192.168.*,172.1[6-9].*,172.2[0-9].*,\
172.3[01].*,fc00:*,fd00:*,$host,$host:*,$own,$own:*,$name,$name:*"
    export MLFLOW_SERVER_ALLOWED_HOSTS=${MLFLOW_SERVER_ALLOWED_HOSTS:-$hosts}
fi
# Not on the command line, which everybody on this machine can read.
export MLFLOW_BACKEND_STORE_URI=${MLFLOW_BACKEND_STORE_URI:-sqlite:///mlflow.db}
export MLFLOW_ARTIFACTS_DESTINATION=${MLFLOW_ARTIFACTS_DESTINATION:-./mlartifacts}
# MLflow's own jobs are of no use to trainings: eight processes, 1.8 GiB, 30 s of CPU at the start.
export MLFLOW_SERVER_ENABLE_JOB_EXECUTION=${MLFLOW_SERVER_ENABLE_JOB_EXECUTION:-false}

scheme=http
[[ "$*" != *--ssl-certfile* ]] || scheme=https
command=(mlflow server --host "$host" --port "$port" "$@")
printf 'MLFLOW_BACKEND_STORE_URI=%s MLFLOW_ARTIFACTS_DESTINATION=%s %s\n' \
    "$MLFLOW_BACKEND_STORE_URI" "$MLFLOW_ARTIFACTS_DESTINATION" "${command[*]}" |
    sed -E 's#(://[^:/@ ]*):[^ ]*@#\1:***@#g; s#(password=)[^& ]*#\1***#g'
echo "export MLFLOW_TRACKING_URI=$scheme://$name:$port"
exec "${command[@]}"
