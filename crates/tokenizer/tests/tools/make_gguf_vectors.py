#!/usr/bin/env python3
"""Small GGUF vocabularies with the ids that llama.cpp gives.

usage: make_gguf_vectors.py write TRAINED_DIR WORK_DIR NAME...   (needs gguf; TRAINED_DIR from make_tokenizers.py)
       make_gguf_vectors.py run WORK_DIR OUT.json [RANDOM_TEXTS] (needs llama-cpp-python)
`write` makes a vocabulary for each pre-tokenizer NAME, and one each of the models llama, t5 and bert.
"""
import ctypes, glob, json, os, random, sys

TEXTS = [
    "", " ", "   ", "\t", "\n", "\n\n\n", "\t\n", " Hello World!", "Hello, y'all! How are you 😁 ?我想在apple工作1314151天～", "' era",
    "I've we'll DON'T it'S 'tis we'Re", "''''''```````\"\"\"\"......!!!!!!??????", "3 33 333 3333 33333 3.3 3..3 1,000,000", "½ ² Ⅷ ٣٤٥٦ x1y22z333abc4444",
    "你好，世界！ 日本語カタカナ 한국어", "Привет, мир Ελληνικά עברית العربية", "हिन्दी ไทย ខ្មែរ", "e\u0301 é a\u0308\u0323 ﬁ Ａ １ ℌ İ ß",
    "\u00a0 \u2003\u3000x\u0085y", "👩‍🔬 😶‍🌫️ 🇫🇷 ✅", "\u0001\u0007\u007f", "def f(x):\n    return x\n\n\tif y:\r\n        pass\r\r\n", "HTTPServer parseXMLFile iPhone DON'TDoIt",
    "a.b,c;d:e foo_bar__baz-qux $5 + 3 = 8 <=> a^b ~c |d| `e`", "#foo @bar /path/to/x.py http://a.b/c?d=e", "<sentinel:12> IMGIMGABZ", "a b  c   d    e     f         g",
    " \n \n\n x\n   \n", "  leading and trailing  ", "1234567 12 123a1234", "<s>hi</s> <|im_end|> <think>", "▁a ▁▁b", "wörter Straße ÀÉÎ", "(apple) [x] {y} “quoted” —dash…",
    "漢字かな交じり文1234ｶﾀｶﾅ", "ABC abc Abc aBC ÀB çD", "Über 100% sicher!\nJa.", "a" * 40 + " " * 40 + "1" * 12,
]


def random_text(rng):
    parts = []
    for _ in range(rng.randrange(1, 25)):
        kind = rng.randrange(7)
        if kind == 0: parts.append(rng.choice([" ", "  ", "\n", "\t", "\r\n", "\n\n", " \n"]))
        elif kind == 1: parts.append(str(rng.randrange(10 ** rng.randrange(1, 8))))
        elif kind == 2: parts.append(rng.choice("!\"#$%&'()*+,-./:;<=>?@[]^_`{|}~…。，—“”"))
        elif kind == 3: parts.append(rng.choice("éàüßñçøÀÉжЯαΩאبनกខ한日本ｱあア½²√€"))
        elif kind == 4: parts.append(rng.choice(["'s", "'LL", "'ve", "don't", "😀", "👩‍🔬"]))
        else: parts.append(rng.choice(["", " "]) + rng.choice("the quick Brown fox HTTPServer camelCase déjà vu мир 你好 x y z in of".split()))
    return "".join(parts)


def write(trained, work, names):
    import gguf
    os.makedirs(work, exist_ok=True)

    def load(name):
        return json.load(open(os.path.join(trained, name + ".json")))["tokenizer"]

    def emit(name, model, pre, tokens, types, scores=None, merges=None, **ids):
        w = gguf.GGUFWriter(os.path.join(work, name + ".gguf"), "llama")
        w.add_tokenizer_model(model)
        if pre: w.add_tokenizer_pre(pre)
        w.add_token_list(tokens)
        w.add_token_types(types)
        if scores: w.add_token_scores(scores)
        if merges: w.add_token_merges(merges)
        for key, id in ids.items(): w.add_uint32(f"tokenizer.ggml.{key}_token_id", id)
        w.write_header_to_file(); w.write_kv_data_to_file(); w.close()

    data = load("gpt2")
    tokens = dict(data["model"]["vocab"])
    types = {t: 1 for t in tokens}
    for t in data["added_tokens"]:
        if t["content"] == "in": continue
        tokens[t["content"]] = t["id"]
        types[t["content"]] = 3 if t["special"] else 4
    order = sorted(tokens, key=tokens.get)
    merges = [" ".join(m) if isinstance(m, list) else m for m in data["model"]["merges"]]
    for name in names:
        emit("gpt2." + name, "gpt2", name, order, [types[t] for t in order], merges=merges, bos=tokens["<s>"], eos=tokens["</s>"])
    data = load("llama2-legacy")["model"]
    order = sorted(data["vocab"], key=data["vocab"].get)
    kind = lambda t: 2 if t == "<unk>" else 3 if t in ("<s>", "</s>") else 6 if t.startswith("<0x") else 1
    emit("llama", "llama", None, order, [kind(t) for t in order], scores=[-float(i) for i in range(len(order))], bos=1, eos=2, unknown=0)
    data = load("unigram")["model"]
    emit("t5", "t5", None, [t for t, _ in data["vocab"]], [kind(t) for t, _ in data["vocab"]], scores=[s for _, s in data["vocab"]], eos=2, unknown=0)
    data = load("bert-uncased")
    tokens = dict(data["model"]["vocab"])
    for t in data["added_tokens"]:
        if t["special"] or t["content"] == "[UNK]": tokens.setdefault(t["content"], t["id"])
    order = sorted(tokens, key=tokens.get)
    spell = lambda t: t if t in ("[UNK]", "[CLS]", "[SEP]") or t.startswith("<") else t[2:] if t.startswith("##") else "▁" + t
    emit("bert", "bert", None, [spell(t) for t in order], [3 if t in ("[CLS]", "[SEP]") or t.startswith("<") and len(t) > 1 else 2 if t == "[UNK]" else 1 for t in order],
         unknown=tokens["[UNK]"], cls=tokens["[CLS]"], seperator=tokens["[SEP]"], bos=tokens["[CLS]"], eos=tokens["[SEP]"])


def run(work, out, count):
    import llama_cpp as lc
    rng = random.Random(7)
    texts = TEXTS + [random_text(rng) for _ in range(count)]
    lc.llama_backend_init()
    cb = lc.llama_log_callback(lambda *a: None); lc.llama_log_set(cb, ctypes.c_void_p(0))
    result = {"texts": texts, "ids": {}, "rows": [], "refused": []}
    for path in sorted(glob.glob(os.path.join(work, "*.gguf"))):
        name = os.path.basename(path)[:-5]
        params = lc.llama_model_default_params(); params.vocab_only = True
        model = lc.llama_model_load_from_file(path.encode(), params)
        if not model:
            result["refused"].append(name); continue
        vocab = lc.llama_model_get_vocab(model)
        rows = []
        for text in texts:
            raw = text.encode()
            buffer = (lc.llama_token * (len(raw) * 3 + 16))()
            n = lc.llama_tokenize(vocab, raw, len(raw), buffer, len(buffer), False, False)
            rows.append(list(buffer[:n]))
        if rows not in result["rows"]: result["rows"].append(rows)
        result["ids"][name] = result["rows"].index(rows)
        lc.llama_model_free(model)
    json.dump(result, open(out, "w"), ensure_ascii=False, separators=(",", ":"))
    print(len(result["ids"]), "vocabularies; refused:", result["refused"])


if sys.argv[1] == "write": write(sys.argv[2], sys.argv[3], sys.argv[4:])
else: run(sys.argv[2], sys.argv[3], int(sys.argv[4]) if len(sys.argv) > 4 else 0)
