"""Runs the official OpenAI client for Python against a server. See README.md."""

import asyncio
import json
import math
import os
import sys
import time
import traceback
import urllib.request
from typing import Literal

import openai
from pydantic import BaseModel

BASE_URL = os.environ["LEVAIN_BASE_URL"].rstrip("/")
ROOT = BASE_URL.removesuffix("/v1")
API_KEY = os.environ.get("LEVAIN_API_KEY")
CLIENT = openai.OpenAI(base_url=BASE_URL, api_key=API_KEY or "none", max_retries=0, timeout=300)
MODEL = os.environ.get("LEVAIN_MODEL") or CLIENT.models.list().data[0].id
HELLO = [{"role": "user", "content": "Say hello."}]
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Tells the weather in a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "enum": ["Paris", "Berlin"]}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
TESTS = []


def test(function):
    TESTS.append(function)
    return function


class Skipped(Exception):
    pass


def fetch(path, body=None):
    headers = {"content-type": "application/json"}
    if API_KEY:
        headers["authorization"] = f"Bearer {API_KEY}"
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(urllib.request.Request(ROOT + path, data, headers)) as response:
        return response.read().decode()


def tokens(text):
    return json.loads(fetch("/tokenize", {"model": MODEL, "content": text}))["tokens"]


def metric(name):
    for line in fetch("/metrics").splitlines():
        if line.startswith(name + " "):
            return float(line.split()[1])
    raise AssertionError(f"no metric {name}")


def chat(**more):
    return CLIENT.chat.completions.create(
        **{"model": MODEL, "messages": HELLO, "max_tokens": 16, "temperature": 0, **more}
    )


def refused(kind, call):
    try:
        call()
    except kind as error:
        assert error.body and error.body["message"], "an error without a message"
        return error
    raise AssertionError(f"expected {kind.__name__}")


@test
def models():
    listed = CLIENT.models.list().data
    assert MODEL in [model.id for model in listed]
    model = CLIENT.models.retrieve(MODEL)
    assert model.id == MODEL and model.object == "model"


@test
def chat_whole():
    answer = chat()
    assert answer.object == "chat.completion" and answer.id.startswith("chatcmpl-")
    assert answer.model == MODEL
    choice = answer.choices[0]
    assert choice.message.role == "assistant" and isinstance(choice.message.content, str)
    assert choice.finish_reason in ("stop", "length")
    usage = answer.usage
    assert usage.prompt_tokens > 0 and 0 < usage.completion_tokens <= 16
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert usage.prompt_tokens_details.cached_tokens >= 0
    assert usage.completion_tokens_details.reasoning_tokens >= 0


@test
def chat_streamed_equals_whole():
    whole = chat()
    text, roles, finishes, usages = "", [], [], []
    for chunk in chat(stream=True, stream_options={"include_usage": True}):
        assert chunk.object == "chat.completion.chunk"
        if chunk.usage:
            assert chunk.choices == []
            usages.append(chunk.usage)
            continue
        assert not usages, "usage comes last"
        choice = chunk.choices[0]
        text += choice.delta.content or ""
        roles += [choice.delta.role] if choice.delta.role else []
        finishes += [choice.finish_reason] if choice.finish_reason else []
    assert text == whole.choices[0].message.content
    assert roles == ["assistant"]
    assert finishes == [whole.choices[0].finish_reason]
    assert len(usages) == 1 and usages[0].completion_tokens == whole.usage.completion_tokens


@test
def chat_streamed_without_usage():
    assert all(chunk.usage is None and chunk.choices for chunk in chat(stream=True))


@test
def chat_n_and_seed():
    answer = chat(n=2, temperature=1, seed=7)
    assert [choice.index for choice in answer.choices] == [0, 1]
    again = chat(n=2, temperature=1, seed=7)
    assert [c.message.content for c in answer.choices] == [c.message.content for c in again.choices]
    indices = {chunk.choices[0].index for chunk in chat(n=2, stream=True)}
    assert indices == {0, 1}


@test
def chat_stop():
    text = chat(max_tokens=32).choices[0].message.content
    stop = text[len(text) // 2 :][:2]
    cut = chat(max_tokens=32, stop=[stop]).choices[0]
    assert cut.finish_reason == "stop" and stop not in cut.message.content
    assert text.startswith(cut.message.content)


@test
def chat_logprobs():
    answer = chat(logprobs=True, top_logprobs=3)
    listed = answer.choices[0].logprobs.content
    assert listed
    for token in listed:
        assert token.logprob <= 0 and len(token.top_logprobs) == 3
        assert isinstance(token.bytes, list)
    streamed = []
    for chunk in chat(logprobs=True, top_logprobs=3, stream=True):
        if chunk.choices[0].logprobs:
            streamed += chunk.choices[0].logprobs.content
    assert [token.token for token in streamed] == [token.token for token in listed]


@test
def chat_parts_and_roles():
    messages = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Say "}, {"type": "text", "text": "hello."}]},
        {"role": "assistant", "content": "Hello."},
        {"role": "user", "content": "Again."},
    ]
    first = chat(messages=messages)
    messages += [first.choices[0].message, {"role": "user", "content": "And again."}]
    assert chat(messages=messages).choices[0].message.role == "assistant"


@test
def chat_reasoning():
    answer = chat(reasoning_effort="low", max_tokens=64)
    message = answer.choices[0].message
    reasoning = getattr(message, "reasoning_content", None)
    if not reasoning:
        raise Skipped("the model does not reason")
    assert 0 < answer.usage.completion_tokens_details.reasoning_tokens <= answer.usage.completion_tokens
    streamed = "".join(
        getattr(chunk.choices[0].delta, "reasoning_content", None) or ""
        for chunk in chat(reasoning_effort="low", max_tokens=64, stream=True)
    )
    assert streamed == reasoning
    chat(messages=HELLO + [message] + HELLO)


@test
def tools_whole_and_back():
    messages = [{"role": "user", "content": "What is the weather in Paris?"}]
    answer = chat(messages=messages, tools=[TOOL], tool_choice="required", max_tokens=200)
    assert answer.choices[0].finish_reason == "tool_calls"
    call = answer.choices[0].message.tool_calls[0]
    assert call.type == "function" and call.function.name == "get_weather"
    assert json.loads(call.function.arguments)["city"] in ("Paris", "Berlin")
    messages += [
        answer.choices[0].message,
        {"role": "tool", "tool_call_id": call.id, "content": "sunny, 20 degrees"},
    ]
    final = chat(messages=messages, tools=[TOOL], tool_choice="none")
    assert final.choices[0].message.content is not None and not final.choices[0].message.tool_calls


@test
def tools_streamed():
    messages = [{"role": "user", "content": "What is the weather in Paris?"}]
    name = {"type": "function", "function": {"name": "get_weather"}}
    with CLIENT.chat.completions.stream(
        model=MODEL, messages=messages, tools=[TOOL], tool_choice=name, max_tokens=200, temperature=0
    ) as stream:
        answer = stream.get_final_completion()
    choice = answer.choices[0]
    assert choice.finish_reason == "tool_calls"
    call = choice.message.tool_calls[0]
    assert call.id and call.function.name == "get_weather"
    assert json.loads(call.function.arguments)["city"] in ("Paris", "Berlin")


class Place(BaseModel):
    city: Literal["Paris", "Berlin"]
    capital: bool


@test
def schema_parsed():
    messages = [{"role": "user", "content": "Name a capital city."}]
    answer = CLIENT.chat.completions.parse(
        model=MODEL, messages=messages, response_format=Place, max_tokens=200, temperature=0
    )
    assert isinstance(answer.choices[0].message.parsed, Place)
    whole = chat(messages=messages, response_format={"type": "json_object"}, max_tokens=200)
    if whole.choices[0].finish_reason == "stop":
        assert isinstance(json.loads(whole.choices[0].message.content), dict)


@test
def completions_text():
    answer = CLIENT.completions.create(model=MODEL, prompt="Once upon a time", max_tokens=8, temperature=0)
    assert answer.object == "text_completion" and answer.choices[0].finish_reason in ("stop", "length")
    stream = CLIENT.completions.create(
        model=MODEL, prompt="Once upon a time", max_tokens=8, temperature=0, stream=True
    )
    assert "".join(chunk.choices[0].text for chunk in stream) == answer.choices[0].text


@test
def completions_token_ids_and_logprobs():
    ids = tokens("Once upon a time")
    answer = CLIENT.completions.create(
        model=MODEL,
        prompt=ids,
        max_tokens=4,
        temperature=0,
        logprobs=2,
        echo=True,
        extra_body={"return_tokens_as_token_ids": True, "ignore_eos": True},
    )
    listed = answer.choices[0].logprobs
    assert listed.tokens[: len(ids)] == [f"token_id:{token}" for token in ids]
    assert len(listed.tokens) == len(ids) + 4 == len(listed.token_logprobs) == len(listed.top_logprobs)
    assert listed.token_logprobs[0] is None
    assert all(logprob <= 0 for logprob in listed.token_logprobs[1:])
    assert answer.choices[0].text.startswith("Once upon a time")
    assert answer.usage.completion_tokens == 4 and answer.usage.prompt_tokens == len(ids)
    # The greedy choice is the likeliest alternative.
    for name, logprob, top in list(zip(listed.tokens, listed.token_logprobs, listed.top_logprobs))[-4:]:
        assert math.isclose(top[name], logprob, abs_tol=1e-6) and logprob == max(top.values())


@test
def completions_several_prompts():
    answer = CLIENT.completions.create(
        model=MODEL, prompt=["One, two,", "Red, green,"], n=2, max_tokens=3, temperature=0
    )
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    alone = CLIENT.completions.create(model=MODEL, prompt="Red, green,", max_tokens=3, temperature=0)
    assert answer.choices[2].text == answer.choices[3].text == alone.choices[0].text


@test
def completions_score_only():
    answer = CLIENT.completions.create(model=MODEL, prompt="a b c", max_tokens=0, echo=True, logprobs=0)
    assert answer.choices[0].text == "a b c" and answer.usage.completion_tokens == 0


@test
def embeddings():
    texts = ["A cat sat on the mat.", "Shares fell on Monday."]
    packed = CLIENT.embeddings.create(model=MODEL, input=texts)
    plain = CLIENT.embeddings.create(model=MODEL, input=texts, encoding_format="float")
    for i in range(2):
        a, b = packed.data[i].embedding, plain.data[i].embedding
        assert packed.data[i].index == i and len(a) == len(b) > 0
        assert all(math.isclose(x, y, abs_tol=1e-6) for x, y in zip(a, b))
        assert math.isclose(sum(x * x for x in b), 1, abs_tol=1e-3)
    assert plain.usage.prompt_tokens > 0
    ids = CLIENT.embeddings.create(model=MODEL, input=[tokens(text) for text in texts], encoding_format="float")
    assert len(ids.data) == 2


@test
def errors():
    error = refused(openai.NotFoundError, lambda: chat(model="no-such-model"))
    assert error.code == "model_not_found" and "no-such-model" in error.message
    refused(openai.NotFoundError, lambda: CLIENT.models.retrieve("no-such-model"))
    error = refused(openai.BadRequestError, lambda: chat(n=1_000_000))
    assert error.param == "n" and error.type == "invalid_request_error"
    error = refused(openai.BadRequestError, lambda: chat(extra_body={"temprature": 1}))
    assert error.code == "unknown_parameter" and "temperature" in error.message
    for more in [{"temperature": 3}, {"top_p": 2}, {"messages": []}, {"stop": [""]}, {"max_tokens": -2}]:
        error = refused(openai.BadRequestError, lambda more=more: chat(**more))
        assert error.param.split("[")[0] == list(more)[0], error.param
    refused(openai.BadRequestError, lambda: CLIENT.embeddings.create(model=MODEL, input=[]))
    url = {"type": "image_url", "image_url": {"url": "https://example.com/cat.png"}}
    refused(openai.BadRequestError, lambda: chat(messages=[{"role": "user", "content": [url]}]))


@test
def prompt_longer_than_the_context():
    error = refused(
        openai.BadRequestError,
        lambda: CLIENT.completions.create(model=MODEL, prompt=[1] * 400_000, max_tokens=1),
    )
    if error.code != "context_length_exceeded":
        raise AssertionError(error.message)


@test
def wrong_key():
    if not API_KEY:
        raise Skipped("the server has no key")
    for key in ["wrong-key-0123456789", API_KEY + "x", API_KEY[:-1]]:
        other = CLIENT.with_options(api_key=key)
        error = refused(openai.AuthenticationError, lambda: other.models.list())
        assert error.code == "invalid_api_key" and key not in error.message


@test
def cancelled_stream_frees_its_slot():
    before = metric("levain_cancelled_total")
    messages = [{"role": "user", "content": "Count from 1 to 1000."}]
    stream = chat(messages=messages, max_tokens=2000, stream=True, extra_body={"repetition_penalty": 1.0})
    for i, _ in enumerate(stream):
        if i == 3:
            break
    stream.close()
    deadline = time.monotonic() + 10
    while metric("levain_sequences_running") > 0 or metric("levain_cancelled_total") == before:
        assert time.monotonic() < deadline, "the slot is still held"
        time.sleep(0.05)


@test
def eight_at_once():
    async def all_of_them():
        async with openai.AsyncOpenAI(
            base_url=BASE_URL, api_key=API_KEY or "none", max_retries=0, timeout=300
        ) as client:
            calls = [
                client.chat.completions.create(model=MODEL, messages=HELLO, max_tokens=16, temperature=0)
                for _ in range(8)
            ]
            return await asyncio.gather(*calls)

    answers = asyncio.run(all_of_them())
    assert len({answer.choices[0].message.content for answer in answers}) == 1
    assert len({answer.id for answer in answers}) == 8


def main():
    passed, failed, skipped = 0, 0, 0
    for function in TESTS:
        try:
            function()
            passed += 1
        except Skipped as reason:
            skipped += 1
            print(f"skipped {function.__name__}: {reason}")
        except openai.BadRequestError as error:
            if error.code == "unsupported_parameter":
                skipped += 1
                print(f"skipped {function.__name__}: {error.message}")
            else:
                failed += 1
                print(f"FAILED {function.__name__}")
                traceback.print_exc(file=sys.stdout)
        except Exception:
            failed += 1
            print(f"FAILED {function.__name__}")
            traceback.print_exc(file=sys.stdout)
    print(f"{passed} passed, {failed} failed ({skipped} skipped), openai {openai.__version__} for Python")
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main())
