#!/usr/bin/env python3
"""Two tenants of one server, of whom one is hostile in every way at once.

usage: tests/tenants.py LEVAIN MODEL [SECONDS]

Starts `LEVAIN serve MODEL` with two keys. For a minute one tenant streams answers and asks for others under schemas;
the other sends costly schemas and grammars, bodies of many small values, floods of requests, prompts that fill the
cache, answers that it does not read, and wrong keys. It fails if a stream of the first has a gap above the bound, one
of its schemas is refused, an answer is a 500, or the server takes more memory than it planned and a tenth.
"""
import http.client
import itertools
import json
import multiprocessing
import os
import re
import socket
import subprocess
import sys
import threading
import time

GAP_MAX = 0.25
HONEST, HOSTILE = "an-honest-tenant-0001", "a-hostile-tenant-0002"


def request(port, key, path, body, timeout=120):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    connection.request("POST", path, data, {"authorization": f"Bearer {key}", "content-type": "application/json"})
    return connection.getresponse()


def chat(text, **more):
    return {"messages": [{"role": "user", "content": text}], "temperature": 0, **more}


def schema(schema):
    return {"type": "json_schema", "json_schema": {"name": "x", "strict": True, "schema": schema}}


def honest(port, until, results):
    """Streams, and asks for answers under schemas beside the stream."""
    gaps, statuses, compiled = [], [], []

    def structured():
        n = 0
        while time.time() < until:
            n += 1
            properties = {f"field_{n}_{i}": {"type": "integer"} for i in range(3)}
            wanted = {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}
            began = time.time()
            response = request(port, HONEST, "/v1/chat/completions", chat("Numbers!", max_tokens=60, response_format=schema(wanted)))
            text = response.read()
            compiled.append((response.status, time.time() - began, text[:200].decode("utf-8", "replace")))
            time.sleep(0.5)

    beside = threading.Thread(target=structured)
    beside.start()
    for turn in itertools.count():
        if time.time() > until:
            break
        response = request(port, HONEST, "/v1/chat/completions", chat(f"Tell me story {turn}.", stream=True, max_tokens=300))
        statuses.append(response.status)
        last = None
        for line in response:
            if not line.startswith(b"data: {"):
                continue
            now = time.time()
            if last is not None:
                gaps.append(now - last)
            last = now
    beside.join()
    results.put((gaps, statuses, compiled))


def hostile(port, until, results):
    counts, lock = {}, threading.Lock()

    def note(kind, status, text=b""):
        with lock:
            counts[(kind, status)] = counts.get((kind, status), 0) + 1
            if status == 500:
                counts.setdefault(("500", kind), text[:300].decode("utf-8", "replace"))

    def again(kind, make, path="/v1/chat/completions", read=True):
        def run():
            for n in itertools.count():
                if time.time() > until:
                    return
                try:
                    response = request(port, HOSTILE, path, make(n), timeout=20)
                    note(kind, response.status, response.read() if read else b"")
                    if response.status in (429, 503):
                        time.sleep(0.02)
                except OSError as error:
                    note(kind, type(error).__name__)
        return run

    def unread(streamed):
        def run():
            held = []
            while time.time() < until:
                body = json.dumps(chat("Long!", n=16, logprobs=True, top_logprobs=20, max_tokens=4000, stream=streamed)).encode()
                connection = socket.create_connection(("127.0.0.1", port))
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {HOSTILE}\r\ncontent-length: {len(body)}\r\n\r\n"
                try:
                    connection.sendall(head.encode() + body)
                except OSError:
                    pass
                held.append(connection)
                if len(held) > 60:
                    held.pop(0).close()
                note(f"unread {streamed}", "sent")
                time.sleep(0.3)
        return run

    def wrong_keys():
        while time.time() < until:
            try:
                response = request(port, os.urandom(8).hex(), "/tokenize", {"content": "x"}, timeout=5)
                note("wrong key", response.status, response.read())
            except OSError as error:
                note("wrong key", type(error).__name__)

    ambiguous = {"type": "grammar", "grammar": "start: s\ns: s s | s s s | /[a-z ]/ | \"\\n\""}
    attacks = [
        again("schema", lambda n: chat("x", max_tokens=5, response_format=schema({"type": "integer", "multipleOf": 999983 + n}))),
        again("schema 2", lambda n: chat("x", max_tokens=5, response_format=schema({"type": "string", "pattern": f"^(a{{1,{900 + n}}}){{1,900}}$"}))),
        again("schema 3", lambda n: chat("x", max_tokens=5, response_format=schema(
            {"type": "object", "properties": {f"p{n}_{i}": {"anyOf": [{"type": "string", "maxLength": 9 + i}] * 4} for i in range(200)}}))),
        *[again("grammar", lambda n: chat("x", max_tokens=200, response_format=ambiguous)) for _ in range(4)],
        again("grammar 2", lambda n: {"prompt": "x", "max_tokens": 200, "response_format": ambiguous}, "/v1/completions"),
        *[again("small values", lambda n: b'{"messages":[' + b"{}," * 700_000 + b"{}]}") for _ in range(3)],
        again("small values 2", lambda n: b'{"prompt":"x","more":' + b"[" * 30 + b"0," * 500_000 + b"0" + b"]" * 30 + b"}", "/v1/completions"),
        again("long text", lambda n: {"content": "ab " * 1_500_000}, "/tokenize"),
        again("cache", lambda n: {"prompt": f"{n} " + "some other words " * 1200, "max_tokens": 1}, "/v1/completions"),
        *[again("flood", lambda n: chat(f"flood {n}", max_tokens=100, n=8)) for _ in range(6)],
        unread(True), unread(False), wrong_keys,
    ]
    threads = [threading.Thread(target=attack) for attack in attacks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    results.put(counts)


def main():
    levain, model = sys.argv[1:3]
    seconds = float(sys.argv[3]) if len(sys.argv) > 3 else 60.0
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {**os.environ, "LEVAIN_API_KEY": f"{HONEST},{HOSTILE}"}
    server = subprocess.Popen([levain, "-v", "serve", model, "--listen", f"127.0.0.1:{port}"], env=environment,
                              stderr=subprocess.PIPE, text=True)
    lines = []
    threading.Thread(target=lambda: lines.extend(iter(server.stderr.readline, "")), daemon=True).start()
    try:
        while True:
            try:
                connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
                connection.request("GET", "/ready")
                if connection.getresponse().status == 200:
                    break
            except OSError:
                pass
            assert server.poll() is None, lines
            time.sleep(0.1)
        request(port, HONEST, "/v1/chat/completions", chat("Warm up.", max_tokens=50)).read()
        until = time.time() + seconds
        results = [multiprocessing.Queue(), multiprocessing.Queue()]
        parties = [multiprocessing.Process(target=party, args=(port, until, queue))
                   for party, queue in zip((honest, hostile), results)]
        for party in parties:
            party.start()
        peak = 0
        while time.time() < until:
            status = open(f"/proc/{server.pid}/status").read()
            peak = max(peak, int(re.search(r"VmRSS:\s+(\d+)", status).group(1)) * 1024)
            time.sleep(0.1)
        gaps, statuses, compiled = results[0].get(timeout=300)
        counts = results[1].get(timeout=300)
        for party in parties:
            party.join()
    finally:
        server.terminate()
        server.wait()
    gaps.sort()
    text = "".join(lines)
    planned = re.search(r"together\s+([\d.]+) (MiB|GiB)", text)
    planned = float(planned.group(1)) * {"MiB": 2**20, "GiB": 2**30}[planned.group(2)] if planned else None
    print(f"honest: {len(statuses)} streams {set(statuses)}, {len(gaps)} gaps, longest {gaps[-1] * 1e3:.0f} ms, "
          f"99th percentile {gaps[len(gaps) * 99 // 100] * 1e3:.0f} ms, median {gaps[len(gaps) // 2] * 1e3:.1f} ms")
    print(f"honest under schemas: {len(compiled)}, {set(status for status, *_ in compiled)}, "
          f"slowest {max(took for _, took, _ in compiled):.1f} s")
    print("hostile:", {str(kind): n for kind, n in sorted(counts.items(), key=str)})
    print(f"memory: {peak / 2**20:.0f} MiB at most" + (f", {planned / 2**20:.0f} MiB planned" if planned else ""))
    faults = []
    if gaps[-1] > GAP_MAX:
        faults.append(f"a gap of {gaps[-1]:.3f} s")
    if set(statuses) != {200} or {status for status, *_ in compiled} != {200}:
        faults.append(f"the honest tenant was refused: {statuses} {[c for c in compiled if c[0] != 200][:3]}")
    if any(key[1] == 500 for key in counts):
        faults.append("an answer was 500")
    if planned and peak > 1.1 * planned:
        faults.append("more memory than planned")
    print("FAILED: " + "; ".join(faults) if faults else "ok")
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
