#!/usr/bin/env python3
"""Train small tokenizers of many kinds with Hugging Face's library and write them with test vectors.

usage: make_tokenizers.py OUT_DIR [RANDOM_TEXTS]
Writes OUT_DIR/<name>.json: {"tokenizer": ..., "cases": [[text, ids, ids with control tokens parsed and put around,
decoded text], ...]}.  Needs tokenizers (pip).  With RANDOM_TEXTS it adds that many random texts to each.
"""
import json, os, random, sys, unicodedata
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

CORPUS = [
    "The quick brown fox jumps over the lazy dog. I've been told he's there; we'll see, won't we? It'S FINE.",
    "Combien font 17 × 23 ? Réponds en français, s'il te plaît : l'été, où, garçon, naïve, cœur.",
    "def f(x):\n    return x + 1\n\n\nclass A:\n\tpass\n    # 12345 67.89\n",
    "你好，世界！我想在apple工作1314151天～ 日本語のテキスト。カタカナ ひらがな 한국어 텍스트",
    "Привет, мир! Ещё один текст. Ελληνικά κείμενα: ΑΒΓ αβγ. עברית العربية हिन्दी ไทย",
    "{\"a\": [1, 2.5, true], \"b\": \"x\\ny\"}  https://example.org/a?b=c&d=e#f  foo_bar-baz@qux.org",
    "HTTPServer parseXMLFile camelCase SCREAMING_CASE mixedCASEWords don't DON'T",
    "1 22 333 4444 55555 666666 7777777 3.14 1,000,000 ½ ² Ⅷ ٣٤",
    "a  b   c    d     e\t\tf\n\n\ng \n h\r\ni \u00a0 j\u3000k",
    "🚀 (normal) 😶‍🌫️ (multiple emojis concatenated) ✅ 🦙🦙 👩‍🔬",
] * 3

TEXTS = [
    "", " ", "  ", "   ", "\t", "\n", "\n\n", "\n\n\n", "\t\n", " \n ", "a", " a", "a ", "  a  b  ", "Hello world", " Hello World!",
    "Hello, world!\n", "I've we'll DON'T it'S 'tis x'ſ y'Ll", "''''''```````\"\"\"\"......!!!!!!??????",
    "1", "12", "123", "1234", "12345", "1234567 8 90", "3.14 1,000,000", "½ ² Ⅷ ٣٤٥٦", "abc123def", "x1y22z333",
    "你好，世界！", "日本語カタカナ한국어", "我想在apple工作1314151天～", "Привет, мир", "Ελληνικά", "עברית العربية", "हिन्दी ไทย",
    "e\u0301 é \u0301 a\u0308\u0323", "ﬁ ﬀ Ａ １ ㎏ ℌ Å", "İ ı ß ẞ ς Σ", "\u200b\u200d\ufeff\u00ad", "\u00a0 \u2003\u3000\u2028x\u0085y",
    "😀", "👩‍🔬", "😶‍🌫️ ok", "🇫🇷", "\u0000", "a\u0000b", "\u0001\u0007\u001b[0m", "\u007f", "\ufffd", "\U0010ffff\U000e0001",
    "def f(x):\n    return x\n\n\tif y:\r\n        pass\r\r\n", "HTTPServer parseXMLFile iPhone", "foo_bar__baz-qux", "a.b,c;d:e",
    "<s>hello</s>", "<|im_start|>user\nhi<|im_end|>", "x<think>y</think>z", " <mask> and<mask>here ", "<unk>", "[CLS] a [SEP]", "<0x0A><0x41>",
    "▁", "▁▁a ▁b", "a▁b", "Ġ Ċ ĉ", "##ing ing", "</w> a</w>", "in inside in", "IN In",
    " ".join(["word"] * 20), "a" * 70, "ab" * 40, " " * 50, "-" * 45, "\n" * 30, "é" * 40, "漢" * 40, "=" * 33 + "\n" + "#" * 9,
    "a b  c   d    e     f", "  leading", "trailing  ", "\n leading", "x \n\n y", "tab\there", "end.\n\n\nNext", "https://example.org/a?b=c&d=e#f",
]
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
GPT4O = "|".join([
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"])
DEEPSEEK3 = r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"""
pre, norm, dec = pre_tokenizers, normalizers, decoders
byte_level = lambda: pre.ByteLevel(add_prefix_space=False, use_regex=False)
split = lambda p, b="isolated", inv=False: pre.Split(Regex(p), b, inv)
alphabet = pre.ByteLevel.alphabet()
SPECIAL = ["<s>", "</s>", "<unk>", "<|im_start|>", "<|im_end|>", "<mask>", "[CLS]", "[SEP]"]


def add_tokens(tok):
    tok.add_special_tokens([AddedToken(t, special=True, normalized=False, lstrip=(t == "<mask>")) for t in SPECIAL])
    tok.add_tokens([AddedToken("<think>", normalized=False), AddedToken("</think>", normalized=False), AddedToken("in", single_word=True, normalized=True)])


def bpe(vocab=700, **kw):
    tok = Tokenizer(models.BPE(**kw))
    return tok, lambda **t: trainers.BpeTrainer(vocab_size=vocab, show_progress=False, **t)


def byte_bpe(name, pre_tokenizer, normalizer=None, post=None, ignore_merges=False):
    tok, trainer = bpe(ignore_merges=ignore_merges)
    tok.pre_tokenizer, tok.decoder = pre_tokenizer, dec.ByteLevel()
    if normalizer: tok.normalizer = normalizer
    tok.train_from_iterator(CORPUS, trainer(initial_alphabet=alphabet))
    add_tokens(tok)
    if post: tok.post_processor = post(tok)
    return name, tok


def template(tok):
    return processors.Sequence([processors.ByteLevel(trim_offsets=False), processors.TemplateProcessing(single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", tok.token_to_id("<s>"))])])


def plain(name, model, trainer, normalizer=None, pre_tokenizer=None, decoder=None, post=None):
    tok = Tokenizer(model)
    if normalizer: tok.normalizer = normalizer
    if pre_tokenizer: tok.pre_tokenizer = pre_tokenizer
    if decoder: tok.decoder = decoder
    tok.train_from_iterator(CORPUS, trainer)
    add_tokens(tok)
    if post: tok.post_processor = post(tok)
    return name, tok


def sentencepiece_bpe(name, normalizer, pre_tokenizer, decoder, fuse=True):
    trainer = trainers.BpeTrainer(vocab_size=600, show_progress=False, special_tokens=["<unk>", "<s>", "</s>"] + [f"<0x{b:02X}>" for b in range(256)], limit_alphabet=120)
    tok = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=fuse, byte_fallback=True))
    if normalizer: tok.normalizer = normalizer
    tok.pre_tokenizer = pre.Metaspace(prepend_scheme="always")
    tok.train_from_iterator(CORPUS, trainer)
    data = json.loads(tok.to_str())
    data["added_tokens"] = [t for t in data["added_tokens"] if not t["content"].startswith("<0x")]
    tok = Tokenizer.from_str(json.dumps(data))
    tok.pre_tokenizer = pre_tokenizer if pre_tokenizer else None
    tok.decoder = decoder
    add_tokens(tok)
    return name, tok


def bpe_trainer(**kw):
    return trainers.BpeTrainer(vocab_size=600, show_progress=False, limit_alphabet=200, **kw)


def all_tokenizers():
    S = pre.Sequence
    yield byte_bpe("gpt2", pre.ByteLevel(add_prefix_space=False), post=lambda t: processors.ByteLevel(trim_offsets=True))
    yield byte_bpe("gpt2-prefix-space", pre.ByteLevel(add_prefix_space=True), post=lambda t: processors.RobertaProcessing(("</s>", t.token_to_id("</s>")), ("<s>", t.token_to_id("<s>"))))
    yield byte_bpe("llama3", S([split(LLAMA3), byte_level()]), post=template, ignore_merges=True)
    yield byte_bpe("qwen2", S([split(QWEN2), byte_level()]), norm.NFC())
    yield byte_bpe("gpt4o", S([split(GPT4O), byte_level()]))
    yield byte_bpe("deepseek-v3", S([split(r"\p{N}{1,3}"), split(r"[一-龥぀-ゟ゠-ヿ]+"), split(DEEPSEEK3), byte_level()]), norm.Sequence([]))
    yield byte_bpe("deepseek-llm", S([split("[\r\n]"), split(r"\s?\p{L}+"), split(r"\s?\p{P}+"), split(r"\s+$"), split("[一-龥ࠀ-一가-퟿]+"), pre.Digits(True), byte_level()]))
    yield byte_bpe("falcon", S([pre.Punctuation("contiguous"), pre.ByteLevel(add_prefix_space=False), pre.Digits(False)][:2]), norm.NFKC())
    yield byte_bpe("smollm", S([pre.Digits(True), pre.ByteLevel(add_prefix_space=False)]))
    yield byte_bpe("bloom", S([split(r" ?[^(\s|[.,!?…。，、।۔،])]+"), byte_level()]))
    for b in ["removed", "merged_with_previous", "merged_with_next", "contiguous"]:
        yield byte_bpe("split-" + b, S([split(r"\s+", b), pre.Split("a", b), byte_level()]), norm.Lowercase())
    yield byte_bpe("split-inverted", S([split(r"\w+|[^\w\s]+", "removed", True), byte_level()]), norm.NFD())
    yield byte_bpe("digits-from-the-right", S([split(r"\p{N}{1,3}(?=(?:\p{N}{3})*(?:\P{N}|$))"), split(QWEN2), byte_level()]))
    kimi = GPT4O.replace(r"\p{M}]", r"\p{M}&&[^\p{Han}]]").replace("[\\r\\n/]*", "[\\r\\n]*")
    yield byte_bpe("kimi-k2", S([split(r"[\p{Han}]+|" + kimi), byte_level()]))
    yield byte_bpe("tiny-aya", S([split(r"\d{1,3}(?=(?:\d{3})*\b)"), split(GPT4O), byte_level()]))
    yield byte_bpe("superbpe", S([split(r"\p{N}+"), split(r"(?=(\d{3})+(?!\d))"), byte_level()]))
    meta = lambda scheme, s=True: pre.Metaspace(prepend_scheme=scheme, split=s)
    legacy = dec.Sequence([dec.Replace("▁", " "), dec.ByteFallback(), dec.Fuse(), dec.Strip(" ", 1, 0)])
    yield sentencepiece_bpe("llama2-legacy", norm.Sequence([norm.Prepend("▁"), norm.Replace(" ", "▁")]), None, legacy)
    yield sentencepiece_bpe("llama2-first", None, meta("first", False), legacy)
    yield sentencepiece_bpe("metaspace-always", norm.NFKC(), meta("always"), dec.Sequence([dec.ByteFallback(), dec.Metaspace(prepend_scheme="always")]))
    yield sentencepiece_bpe("metaspace-never", norm.Replace(Regex(" {2,}"), " "), meta("never"), dec.Sequence([dec.ByteFallback(), dec.Metaspace(prepend_scheme="never")]))
    yield plain("bpe-unk", models.BPE(unk_token="<unk>", fuse_unk=True), bpe_trainer(special_tokens=["<unk>"]), norm.Sequence([norm.NFD(), norm.StripAccents()]), pre.Whitespace())
    yield plain("bpe-unk-each", models.BPE(unk_token="<unk>"), bpe_trainer(special_tokens=["<unk>"]), norm.Strip(), pre.WhitespaceSplit())
    yield plain("clip", models.BPE(unk_token="<unk>", end_of_word_suffix="</w>"), bpe_trainer(special_tokens=["<unk>"], end_of_word_suffix="</w>"), norm.Sequence([norm.NFC(), norm.Replace(Regex(r"\s+"), " "), norm.Lowercase()]), pre.BertPreTokenizer(), dec.BPEDecoder("</w>"))
    yield plain("bpe-continuing", models.BPE(unk_token="<unk>", continuing_subword_prefix="@@"), bpe_trainer(special_tokens=["<unk>"], continuing_subword_prefix="@@"), None, pre.Sequence([pre.CharDelimiterSplit("-"), pre.Punctuation("merged_with_previous")]))
    unigram = lambda: trainers.UnigramTrainer(vocab_size=500, show_progress=False, unk_token="<unk>", special_tokens=["<unk>", "<s>", "</s>"])
    yield plain("unigram", models.Unigram(), unigram(), norm.Sequence([norm.NFKC(), norm.Replace(Regex(" {2,}"), " ")]), meta("always"), dec.Metaspace(prepend_scheme="always"), lambda t: processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 2)]))
    yield plain("unigram-plain", models.Unigram(), unigram(), norm.NFKD(), pre.Digits(False))
    bert = lambda t: processors.BertProcessing(("[SEP]", t.token_to_id("[SEP]")), ("[CLS]", t.token_to_id("[CLS]")))
    for case in [True, False]:
        yield plain(f"bert-{'un' if case else ''}cased", models.WordPiece(unk_token="[UNK]"), trainers.WordPieceTrainer(vocab_size=600, show_progress=False, special_tokens=["[UNK]"], limit_alphabet=200), norm.BertNormalizer(lowercase=case), pre.BertPreTokenizer(), dec.WordPiece(), bert)
    yield plain("word-level", models.WordLevel(unk_token="<unk>"), trainers.WordLevelTrainer(vocab_size=300, show_progress=False, special_tokens=["<unk>"]), None, pre.Sequence([pre.Whitespace(), pre.FixedLength(4)]))


def random_text(rng):
    parts = []
    for _ in range(rng.randrange(1, 30)):
        kind = rng.randrange(8)
        if kind == 0: parts.append(rng.choice([" ", "  ", "\n", "\t", "\r\n", "\n\n", " \n", "\u00a0", "\u3000"]))
        elif kind == 1: parts.append(str(rng.randrange(10 ** rng.randrange(1, 8))))
        elif kind == 2: parts.append(rng.choice("!\"#$%&'()*+,-./:;<=>?@[]^_`{|}~…。，—“”"))
        elif kind == 3:
            c = chr(rng.randrange(0x20, 0x3000))
            parts.append(c if unicodedata.ucd_3_2_0.category(c) not in ("Cn", "Cs") else "?")
        elif kind == 4: parts.append(rng.choice(["'s", "'LL", "'ve", "<s>", "<think>", "in", "</s", "<mask>", "▁", "##"]))
        elif kind == 5: parts.append(chr(rng.choice([rng.randrange(0x4e00, 0x9fa5), rng.randrange(0x1f300, 0x1f640), rng.randrange(0xac00, 0xd7a3), rng.randrange(0x300, 0x36f)])))
        else:
            words = rng.choice(CORPUS).split(" ")
            parts.append(rng.choice(["", " "]) + rng.choice(words))
    return "".join(parts)


out, count = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 0
os.makedirs(out, exist_ok=True)
for name, tok in all_tokenizers():
    rng, cases = random.Random(name), []
    for text in TEXTS + [random_text(rng) for _ in range(12 + count)]:
        tok.encode_special_tokens = True
        ids = tok.encode(text, add_special_tokens=False).ids
        tok.encode_special_tokens = False
        parsed = tok.encode(text, add_special_tokens=True).ids
        cases.append([text, ids, parsed, tok.decode(ids, skip_special_tokens=True)])
    with open(os.path.join(out, name + ".json"), "w") as f:
        tok.encode_special_tokens = False
        json.dump({"tokenizer": json.loads(tok.to_str()), "cases": cases}, f, ensure_ascii=False, separators=(",", ":"))
    print(name, tok.get_vocab_size(), len(cases), os.path.getsize(os.path.join(out, name + ".json")))
