#!/usr/bin/env bash
# lm-evaluation-harness (PyPI: lm_eval[api], transformers) against both endpoints: `lm_eval.sh VENV MODEL_FOLDER BASE_URL`.
# The served model is the folder's, whose tokenizer.json the harness reads too. No hub is asked for anything.
set -euo pipefail
venv=$1 folder=$2 base=$3
here=$(cd "$(dirname "$0")" && pwd)
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
for task in "$here"/lm_eval_tasks/*.yaml; do
    sed "s#LEVAIN_TASKS#$here/lm_eval_tasks#" "$task" >"$scratch/$(basename "$task")"
done
export HF_HUB_OFFLINE=1 HF_HOME=$scratch/hf OPENAI_API_KEY=${LEVAIN_API_KEY:-none} TOKENIZERS_PARALLELISM=false
harness() {
    "$venv/bin/lm_eval" --include_path "$scratch" --output_path "$scratch/out" --log_samples --seed 1 "$@"
}
harness --tasks levain_choice,levain_generate --model local-completions \
    --model_args "model=$folder,tokenizer=$folder,base_url=$base/completions,num_concurrent=1,max_retries=1"
harness --tasks levain_generate --model local-chat-completions --apply_chat_template \
    --model_args "model=$folder,tokenizer=$folder,base_url=$base/chat/completions,num_concurrent=1,max_retries=1"
"$venv/bin/python" - "$scratch/out" <<'CHECK'
import json, pathlib, sys

rows = {path: [json.loads(line) for line in path.open()] for path in pathlib.Path(sys.argv[1]).rglob("samples_*.jsonl")}
choices = [row for path, found in rows.items() if "levain_choice" in path.name for row in found]
texts = [row for path, found in rows.items() if "levain_generate" in path.name for row in found]
# Each choice has a log-probability of its own, and each text was generated.
assert len(choices) == 4 and len(texts) == 8, (len(choices), len(texts))
for row in choices:
    scores = [float(answer[0][0]) for answer in row["resps"]]
    assert len(set(scores)) == 3 and all(-1000 < score < 0 for score in scores), scores
assert all(isinstance(row["resps"][0][0], str) for row in texts)
print("lm-evaluation-harness: 4 questions scored, 8 texts generated")
CHECK
