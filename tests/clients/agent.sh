#!/usr/bin/env bash
# An agent (PyPI: mini-swe-agent) edits a file by tool calls that a scripted provider makes: `agent.sh VENV FAKE_SERVER`.
# Requests and answers go through the real server; only what the model says is written down here.
set -euo pipefail
venv=$1 fake_server=$2
scratch=$(mktemp -d)
server=
trap '[ -z "$server" ] || kill "$server" 2>/dev/null || true; rm -rf "$scratch"' EXIT
mkdir "$scratch/project"
printf 'def add(a, b):\n    return a - b\n' >"$scratch/project/sums.py"
cat >"$scratch/script.json" <<'JSON'
[
  {"tool": "bash", "arguments": {"command": "cat sums.py"}},
  {"tool": "bash", "arguments": {"command": "sed -i 's/a - b/a + b/' sums.py && python3 -c 'import sums; assert sums.add(2, 2) == 4'"}},
  {"tool": "bash", "arguments": {"command": "echo COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT"}}
]
JSON
mkfifo "$scratch/stdin"
"$fake_server" 127.0.0.1:0 "$scratch/script.json" <"$scratch/stdin" >"$scratch/url" &
server=$!
exec 3>"$scratch/stdin"
until grep -qs http "$scratch/url"; do
    kill -0 "$server"
    sleep 0.1
done
url=$(cat "$scratch/url")
export MSWEA_CONFIGURED=true MSWEA_COST_TRACKING=ignore_errors MSWEA_GLOBAL_CONFIG_DIR=$scratch/config
export MSWEA_SILENT_STARTUP=1 OPENAI_API_KEY=none LITELLM_LOCAL_MODEL_COST_MAP=True HOME=$scratch
cd "$scratch/project"
"$venv/bin/mini" --yolo --exit-immediately --task "add() in sums.py subtracts: mend it." --model openai/fake \
    --output "$scratch/trajectory.json" -c mini.yaml -c "model.model_kwargs.api_base=$url" </dev/null >"$scratch/log" 2>&1 || {
    tail -n 40 "$scratch/log"
    exit 1
}
grep -q 'return a + b' sums.py
grep -q COMPLETE_TASK "$scratch/trajectory.json"
echo "mini-swe-agent: one edit by three tool calls"
