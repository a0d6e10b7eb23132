#!/bin/sh
# Runs both clients against a server without a model, with a key, on a free port.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
scratch=$(mktemp -d)
export LEVAIN_API_KEY=test-key-0123456789 LEVAIN_MODEL=fake
mkfifo "$scratch/stdin"
cargo build --quiet --manifest-path "$here/../../Cargo.toml" --package levain-server --example fake_server
target=${CARGO_TARGET_DIR:-$here/../../target}
"$target/debug/examples/fake_server" 127.0.0.1:0 <"$scratch/stdin" >"$scratch/url" &
server=$!
exec 3>"$scratch/stdin"
trap 'exec 3>&-; wait "$server" || true; rm -r "$scratch"' EXIT
while ! grep -q http "$scratch/url"; do
    kill -0 "$server"
    sleep 0.05
done
LEVAIN_BASE_URL=$(cat "$scratch/url")
export LEVAIN_BASE_URL
status=0
"${PYTHON:-python3}" "$here/openai_python.py" || status=1
if [ -d "$here/node_modules/openai" ]; then
    node "$here/openai_node.mjs" || status=1
else
    echo "skipped openai_node.mjs: run npm install --prefix tests/clients first"
fi
exit "$status"
