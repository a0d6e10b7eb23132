"""Times llama.cpp for `levain bench --compare`: one JSON command a line comes in, one JSON answer a line goes out.

Between commands it waits for its input, so that nothing of it runs while Levain is measured.
"""
import ctypes
import json
import sys
import time


def answer(**fields):
    print(json.dumps(fields), flush=True)


try:
    import llama_cpp as lib
except ImportError as error:
    answer(missing=str(error))
    sys.exit()

UBATCH = 512
setup = json.loads(sys.argv[1])


class Peer:
    def __init__(self):
        lib.llama_backend_init()
        # The callback must outlive every call of the library.
        self.silence = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)(lambda *_: None)
        lib.llama_log_set(self.silence, None)
        params = lib.llama_model_default_params()
        # Weights in a layout of its own, which is not always the faster one, and not on every machine without faults.
        if hasattr(params, "use_extra_bufts"):
            params.use_extra_bufts = setup["extra_buffers"]
        elif not setup["extra_buffers"]:
            raise RuntimeError("this version has no other way to keep weights")
        model = lib.llama_model_load_from_file(setup["model"].encode(), params)
        if not model:
            raise RuntimeError("it could not load " + setup["model"])
        params = lib.llama_context_default_params()
        params.n_ctx = setup["context"] * setup["sequences"]
        params.n_batch = params.n_ubatch = UBATCH
        params.n_seq_max = setup["sequences"]
        params.n_threads = params.n_threads_batch = setup["threads"]
        self.context = lib.llama_init_from_model(model, params)
        if not self.context:
            raise RuntimeError("it could not set up its context")
        self.memory = lib.llama_get_memory(self.context)
        self.batch = lib.llama_batch_init(max(UBATCH, setup["sequences"]), 0, 1)

    def compute(self, rows):
        """`rows`: (token, position, sequence, whether its logits are wanted)."""
        for at, (token, position, sequence, logits) in enumerate(rows):
            self.batch.token[at] = token
            self.batch.pos[at] = position
            self.batch.n_seq_id[at] = 1
            self.batch.seq_id[at][0] = sequence
            self.batch.logits[at] = logits
        self.batch.n_tokens = len(rows)
        code = lib.llama_decode(self.context, self.batch)
        if code:
            raise RuntimeError(f"llama_decode gave {code}")
        lib.llama_synchronize(self.context)

    def prompt(self, tokens, sequence):
        last = len(tokens) - 1
        for at in range(0, len(tokens), UBATCH):
            part = tokens[at : at + UBATCH]
            self.compute([(token, at + i, sequence, at + i == last) for i, token in enumerate(part)])

    def prefill(self, tokens):
        lib.llama_memory_clear(self.memory, True)
        begun = time.perf_counter()
        self.prompt(tokens, 0)
        return time.perf_counter() - begun

    def fill(self, prompts):
        lib.llama_memory_clear(self.memory, True)
        for sequence, tokens in enumerate(prompts):
            self.prompt(tokens, sequence)
        return 0.0

    def decode(self, position, sequences, tokens):
        """Some tokens for each sequence after `position`, which are then forgotten."""
        begun = time.perf_counter()
        for i, token in enumerate(tokens):
            self.compute([(token, position + i, sequence, True) for sequence in range(sequences)])
        took = time.perf_counter() - begun
        for sequence in range(sequences):
            lib.llama_memory_seq_rm(self.memory, sequence, position, -1)
        return took


try:
    peer = Peer()
    answer(version=lib.__version__)
    for line in sys.stdin:
        command, arguments = json.loads(line)
        answer(seconds=getattr(peer, command)(*arguments))
except Exception as error:
    answer(error=f"{type(error).__name__}: {error}")
