#!/usr/bin/env bash
# Runs the images of a tag the way the manifests do: a user of no account, no capability, a
# read-only root, nothing writable but /tmp. Uses the Docker that DOCKER_HOST names.
set -euo pipefail
tag=$1
hardened=(--rm --read-only --tmpfs /tmp:size=2g --user 10001:10001 --cap-drop ALL
    --security-opt no-new-privileges --shm-size 512m)
offline=("${hardened[@]}" --network none)

echo "== every image: labels, no compiler, no pip, no cache, code that belongs to root"
for target in pipeline mlflow trainer; do
    docker image inspect --format '{{json .Config.Labels}} user {{.Config.User}}' "sdpose-$target:$tag" \
        | grep "\"org.opencontainers.image.revision\":\"$tag\".*user 10001:10001"
    docker run "${offline[@]}" "sdpose-$target:$tag" sh -euc '
        ! command -v gcc cc clang pip pip3
        ! find / -xdev -name "*.whl" -path "*pip*cache*" 2>/dev/null | grep .
        ! find /opt /app -xdev ! -user root | grep .
        touch /app/x 2> /dev/null && exit 1
        touch /tmp/x'
done

echo "== pipeline: a dataset is prepared; training says what it lacks"
docker run "${offline[@]}" "sdpose-pipeline:$tag" sh -euc '
    python -m sdpose synth /tmp/data --train 8 --val 4
    python -m sdpose prepare quickstart --data-root /tmp/data
    python -c "
import sys
import components.prepare_coco, pipelines.cluster.preflight
assert \"torch\" not in sys.modules"
    python -m sdpose train quickstart --data-root /tmp/data 2> /tmp/said && exit 1
    grep "trainer image" /tmp/said'

echo "== trainer: the whole pipeline, scaled down: prepare, train, evaluate, register"
docker run "${offline[@]}" --env SDPOSE_REGISTRY=/tmp/registry "sdpose-trainer:$tag" sh -euc '
    python -m sdpose synth /tmp/data --train 160 --val 16
    cd /tmp && python /app/pipelines/submit.py --exp quickstart --yes --data-root /tmp/data \
        --work-dir /tmp/quickstart --set total_epochs=2 --set evaluation.interval=2 \
        --set checkpoint_config.interval=2
    grep "\"git_commit\": \"'"$tag"'\"" /tmp/quickstart/summary.json'

echo "== mlflow: migrates an empty PostgreSQL and serves from it, read-only"
postgres=$(ls -d /usr/lib/postgresql/*/bin 2> /dev/null | tail -1)
if [ -z "$postgres" ]; then
    echo "skipped: no PostgreSQL server on this machine (apt-get install postgresql)"
    exit 0
fi
folder=$(mktemp -d) port=15439 mlflow_port=15441
as_postgres() { setpriv --reuid postgres --regid postgres --clear-groups "$@"; }
echo 'p@ss:w/rd%' > "$folder/password"
chown -R postgres "$folder"
as_postgres "$postgres/initdb" -D "$folder/data" -U mlflow -A scram-sha-256 \
    --pwfile="$folder/password" > /dev/null
as_postgres "$postgres/pg_ctl" -D "$folder/data" -l "$folder/log" -w start \
    -o "-p $port -k $folder -c listen_addresses=127.0.0.1" > /dev/null
server=("${hardened[@]}" --network host --env PGPASSWORD='p@ss:w/rd%'
    --env URI="postgresql://mlflow@127.0.0.1:$port/postgres"
    --env MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false)
end() {
    docker rm --force sdpose-mlflow-check > /dev/null || true
    as_postgres "$postgres/pg_ctl" -D "$folder/data" -m immediate stop > /dev/null
    rm -rf "$folder"
}
trap end EXIT
docker run "${server[@]}" "sdpose-mlflow:$tag" sh -c 'mlflow db upgrade "$URI"'
docker run "${server[@]}" --detach --name sdpose-mlflow-check "sdpose-mlflow:$tag" sh -c \
    "mlflow server --port $mlflow_port --workers 2 --backend-store-uri \$URI --artifacts-destination /tmp/a"
docker run "${hardened[@]}" --network host --env "MLFLOW_TRACKING_URI=http://127.0.0.1:$mlflow_port" \
    "sdpose-pipeline:$tag" python -c '
import time, urllib.request, os
from sdpose import tracking
for _ in range(120):
    try:
        urllib.request.urlopen(os.environ["MLFLOW_TRACKING_URI"] + "/health")
        break
    except OSError:
        time.sleep(1)
run = tracking.start_run("check", params={"a": 1}, tags={})
run.log_metrics({"loss": 1.5}, step=1)
run.end("FINISHED")
print("MLflow run", run.run_id)'
docker exec sdpose-mlflow-check python -c 'import boto3, flask_wtf, psycopg; print("psycopg", psycopg.__version__)'
echo "the images are fine"
