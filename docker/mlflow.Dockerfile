# MLflow's tracking server and PostgreSQL's client library, for compose.yaml: no torch, no dpinn. The
# versions are those that dpinn is tested with.
ARG BASE=debian:bookworm-slim
FROM ${BASE}

RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends python3-venv \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt /var/log/*.log /var/log/apt \
    && useradd --uid 10001 --create-home mlflow \
    && install -d -o mlflow /artifacts \
    && python3 -m venv /opt/venv

ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    GIT_PYTHON_REFRESH=quiet

COPY constraints.txt /tmp/
RUN --mount=type=secret,id=pip.conf,target=/etc/pip.conf \
    pip install --no-cache-dir -c /tmp/constraints.txt mlflow psycopg2-binary

USER 10001
WORKDIR /home/mlflow
EXPOSE 5000
CMD ["mlflow", "server", "--help"]
