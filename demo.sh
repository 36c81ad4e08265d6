#!/usr/bin/env bash
# The main job on the embedded corpus: a small dense language model, its twins pruned to 80, 90 and 95 % by AGP, and the comparison.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

out=${OUT:-demo}
model=(--data docs --emsize 128 --nhid 128 --tied --epochs 6)
rm -rf "$out"

limbeck lm train "${model[@]}" --save "$out/dense"
for level in 80 90 95; do
    limbeck lm train "${model[@]}" --compress "schedules/demo/docs_$level.yaml" --save "$out/agp_$level"
done
limbeck lm compare "$out/dense" "$out/agp_80" "$out/agp_90" "$out/agp_95" --out "$out/compare"
