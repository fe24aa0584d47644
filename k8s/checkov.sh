#!/usr/bin/env bash
# checkov over what a cluster gets, with every check on; what an object does on purpose is waived in
# its annotations (checkov.io/skip...) with the reason. $1: the program.
set -euo pipefail
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
for overlay in dev prod single-user; do
    kubectl kustomize k8s/overlays/$overlay > "$work/$overlay.yaml"
done
cp k8s/fetch-coco.yaml k8s/kfp-proxy.yaml "$work"
quiet=(--compact --quiet --skip-download)
# The images of dev are built here and loaded into its node: no digest, no registry to pull from.
"$1" --framework kubernetes "${quiet[@]}" --file "$work/dev.yaml" \
    --skip-check CKV_K8S_43,CKV_K8S_15
"$1" --framework kubernetes "${quiet[@]}" --file "$work/prod.yaml" --file "$work/fetch-coco.yaml" \
    --file "$work/single-user.yaml" --file "$work/kfp-proxy.yaml"
# HEALTHCHECK: Kubernetes ignores it; the manifests have probes. The base is pinned, as an ARG's
# default, which checkov does not follow.
"$1" --framework dockerfile "${quiet[@]}" --file images/Dockerfile \
    --skip-check CKV_DOCKER_2,CKV_DOCKER_7
echo "checkov: nothing found"
