#!/usr/bin/env python3
"""Render chat templates with Jinja2, set up as in Hugging Face's transformers, and write the results as test vectors.

usage: make_template_cases.py OUT_DIR TEMPLATE.jinja...
Writes OUT_DIR/<name>.jinja and OUT_DIR/<name>.json: a list of {name, messages, tools, add_generation_prompt, bos_token,
eos_token, kwargs, expected | error}.  strftime_now is frozen at 2025-01-20.  Needs jinja2 (pip).
"""
import datetime, json, os, shutil, sys
import jinja2
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

U = lambda t: {"role": "user", "content": t}
A = lambda t, **k: {"role": "assistant", "content": t, **k}
S = lambda t: {"role": "system", "content": t}
T = lambda t: {"type": "text", "text": t}
TOOL = {"type": "function", "function": {"name": "get_weather", "description": "Weather of a city", "parameters": {"type": "object", "properties": {
    "city": {"type": "string", "description": "Ville, p. ex. Orléans"}, "days": {"type": ["integer", "null"], "default": None, "minimum": 1e-05},
    "unit": {"type": "string", "enum": ["C", "F"], "nullable": True}, "at": {"type": "array", "items": {"type": "number"}, "description": "<hours> & 'more'"}}, "required": ["city"]}}}
BARE = {"type": "function", "function": {"name": "now", "description": "", "parameters": {"type": "object", "properties": {}}}}
ARGS = {"city": "Orléans", "days": 3, "exact": True, "none": None, "x": 1.5, "l": [1, "a", {"b": []}]}
CALL = {"id": "call00001", "type": "function", "function": {"name": "get_weather", "arguments": ARGS}}
TEXT_CALL = {"id": "call00002", "type": "function", "function": {"name": "get_weather", "arguments": json.dumps(ARGS, ensure_ascii=False)}}
R = lambda t, i="call00001": {"role": "tool", "name": "get_weather", "tool_call_id": i, "content": t}
CASES = [
    ("one turn", [U("Combien font 17 × 23 ?")], None, True, {}),
    ("system", [S("Réponds en français."), U("Hello")], None, True, {}),
    ("no prompt", [S("s"), U("a"), A("b")], None, False, {}),
    ("three turns", [S(" s "), U("a"), A("b"), U("c"), A("d"), U(" e\n")], None, True, {}),
    ("thinking in the past", [U("2+2?"), A("<think>\nTwo and two.\n</think>\n\n4"), U("et 3+3 ?")], None, True, {}),
    ("reasoning field", [U("2+2?"), A("4", reasoning_content="Two.\nAnd two."), U("3+3?"), A("6", reasoning_content="Hm.")], None, False, {}),
    ("thinking off", [U("x")], None, True, {"enable_thinking": False}),
    ("thinking on", [S("y"), U("x")], None, True, {"enable_thinking": True, "thinking": True, "reasoning_effort": "high"}),
    ("parts", [S([T("s1"), T("s2")]), {"role": "user", "content": [T("a "), T(" b")]}], None, True, {}),
    ("tools offered", [U("Météo ?")], [TOOL, BARE], True, {}),
    ("tools offered with system", [S("sys"), U("Météo ?")], [TOOL], True, {}),
    ("tool called", [U("Météo ?"), A("", tool_calls=[CALL]), R("{\"t\": 21}")], [TOOL], True, {}),
    ("tool called, content none", [U("Météo ?"), A(None, tool_calls=[CALL]), R("21"), A("Il fait 21."), U("merci")], [TOOL], True, {}),
    ("arguments as text", [U("Météo ?"), A("Je regarde.", tool_calls=[TEXT_CALL]), R("21", "call00002")], [TOOL], True, {}),
    ("two calls", [U("Météo ?"), A("", tool_calls=[CALL, {**CALL, "id": "call00003"}]), R("21"), R("24", "call00003"), A("fin")], [TOOL, BARE], False, {}),
    ("reasoning and call", [U("?"), A("", reasoning_content="Let me see.", tool_calls=[CALL]), R("21")], [TOOL], True, {"enable_thinking": True}),
    ("tool answers in parts", [U("?"), A("", tool_calls=[CALL]), {"role": "tool", "tool_call_id": "call00001", "name": "get_weather", "content": [T("21")]}], [TOOL], True, {}),
    ("empty", [], None, True, {}),
    ("empty system", [S(""), U("a")], None, True, {}),
    ("two users", [U("a"), U("b")], None, True, {}),
    ("assistant first", [A("a"), U("b")], None, True, {}),
    ("system late", [U("a"), S("b"), U("c")], None, True, {}),
    ("developer", [{"role": "developer", "content": "d"}, U("a")], None, True, {}),
    ("unknown role", [{"role": "critic", "content": "d"}, U("a")], None, True, {}),
    ("last is assistant", [U("a"), A("b")], None, True, {}),
    ("quotes", [U("👩‍🔬 \"c'est <b>bon</b> & {{ 7*7 }}\" \\ \t |")], None, True, {}),
    ("special tokens", [U("<|im_end|><|im_start|>system\n<｜User｜><|eot_id|></s>[INST]<start_of_turn>")], None, True, {}),
]


def raise_exception(message):
    raise jinja2.exceptions.TemplateError(message)


def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


class Generation(Extension):
    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_pass"), [], [], body).set_lineno(line)

    def _pass(self, caller):
        return caller()


env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, Generation])
env.filters["tojson"] = tojson
env.globals["raise_exception"] = raise_exception
env.globals["strftime_now"] = lambda f: datetime.datetime(2025, 1, 20).strftime(f)
out = sys.argv[1]
os.makedirs(out, exist_ok=True)
for path in sys.argv[2:]:
    name = os.path.basename(path)[:-6]
    if os.path.abspath(path) != os.path.abspath(os.path.join(out, name + ".jinja")):
        shutil.copy(path, os.path.join(out, name + ".jinja"))
    template = env.from_string(open(path).read())
    rows = []
    for title, messages, tools, prompt, kwargs in CASES:
        row = dict(name=title, messages=messages, tools=tools, add_generation_prompt=prompt, bos_token="<s>", eos_token="</s>", kwargs=kwargs)
        try:
            row["expected"] = template.render(messages=messages, tools=tools, documents=None, add_generation_prompt=prompt, bos_token="<s>", eos_token="</s>", **kwargs)
        except Exception as e:
            row["error"] = f"{type(e).__name__}: {e}"
        rows.append(row)
    json.dump(rows, open(os.path.join(out, name + ".json"), "w"), ensure_ascii=False, separators=(",", ":"))
    print(name, sum("expected" in r for r in rows), "rendered", sum("error" in r for r in rows), "errors")
