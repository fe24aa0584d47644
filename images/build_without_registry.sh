#!/usr/bin/env bash
# Builds the images on a Debian machine that reaches PyPI and Debian's mirror but no image registry,
# and checks them (check.sh). `make images-check`, as root; about 25 GB of disk at its peak.
#
# A Docker daemon of its own (no bridge, no iptables) with its data in $WORK, and a base made with
# debootstrap that takes over this machine's certificates and pip configuration. All of it is removed
# at the end; KEEP=1 keeps the images and leaves the daemon running.
set -euo pipefail
cd "$(dirname "$0")/.."

WORK=${WORK:-/tmp/sdpose-images}
SUITE=${SUITE:-bookworm}
MIRROR=${MIRROR:-http://deb.debian.org/debian}
export DOCKER_BUILDKIT=1 DOCKER_HOST=unix://$WORK/docker.sock

[ "$(id -u)" = 0 ] || { echo "error: must be root (debootstrap, dockerd)"; exit 2; }
for program in dockerd runc debootstrap; do
    command -v $program > /dev/null || missing=1
done
[ -z "${missing:-}" ] || apt-get install --yes --no-install-recommends docker.io runc debootstrap
# Debian's client builds with BuildKit by itself; newer ones need the buildx plugin.
PATH=/usr/bin:$PATH
mkdir -p "$WORK"

finish() {
    [ -z "${KEEP:-}" ] || { echo "kept: export DOCKER_HOST=$DOCKER_HOST"; return; }
    kill "$daemon" && wait "$daemon" || true
    # containers on the host's network leave this mount behind
    umount "$WORK/exec/netns/default" 2> /dev/null || true
    rm -rf "$WORK"
}
if docker info > /dev/null 2>&1; then
    daemon=$(cat "$WORK/dockerd.pid")
else
    dockerd --host "$DOCKER_HOST" --data-root "$WORK/docker" --exec-root "$WORK/exec" \
        --pidfile "$WORK/dockerd.pid" --bridge=none --iptables=false --ip6tables=false \
        --storage-driver "${STORAGE_DRIVER:-overlay2}" > "$WORK/dockerd.log" 2>&1 &
    daemon=$!
fi
trap finish EXIT
timeout 60 sh -c 'until docker info > /dev/null 2>&1; do sleep 1; done' \
    || { tail "$WORK/dockerd.log"; exit 1; }

if ! docker image inspect sdpose-base:local > /dev/null 2>&1; then
    debootstrap --variant=minbase --include=ca-certificates,python3,python3-pip,python3-venv \
        "$SUITE" "$WORK/base" "$MIRROR" > "$WORK/debootstrap.log"
    cp -L /etc/ssl/certs/ca-certificates.crt "$WORK/base/etc/ssl/certs/"
    [ ! -f /etc/pip.conf ] || cp /etc/pip.conf "$WORK/base/etc/"
    rm -rf "$WORK"/base/var/cache/apt "$WORK"/base/var/lib/apt/lists
    tar --create --directory "$WORK/base" . | docker import - sdpose-base:local
    rm -rf "$WORK/base"
fi

started=$SECONDS
make images BUILD_FLAGS="--network host --build-arg BASE_IMAGE=sdpose-base:local"
echo "built in $((SECONDS - started)) s:"
docker images --filter reference='sdpose-*' --format '{{.Repository}} {{.Size}}'

images/check.sh "$(git describe --always --dirty --abbrev=40 --exclude='*')"
