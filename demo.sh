#!/usr/bin/env bash
# The main job on the embedded corpus: a small dense language model, its twins pruned to 80, 90 and 95 % by AGP, and the comparison.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

out=${OUT:-demo}
rm -rf "$out"
export OMP_NUM_THREADS=1 # two runs at a time, a core each: faster than one run on two cores
trap 'kill $(jobs -p) 2>/dev/null || true' EXIT

run() { # NAME [OPTION...]: trains into $out/NAME; each line says which run it is of
    local name=$1
    shift
    limbeck lm train --data docs --emsize 48 --nhid 48 --tied --epochs 3 --save "$out/$name" "$@" 2>&1 | sed -u "s/^/$name  /"
}
pruned() { run "agp_$1" --compress "schedules/demo/docs_$1.yaml"; }

echo "What 90 % by AGP will do, before any training:"
limbeck lm train --data docs --emsize 48 --nhid 48 --tied --epochs 3 --compress schedules/demo/docs_90.yaml --plan
echo
run dense & first=$!
pruned 80
wait "$first"
pruned 90 & first=$!
pruned 95
wait "$first"
limbeck lm compare "$out/dense" "$out/agp_80" "$out/agp_90" "$out/agp_95" --out "$out/compare"
