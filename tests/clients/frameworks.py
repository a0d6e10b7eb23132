"""LangChain's and LlamaIndex's OpenAI classes against a server. See README.md."""

import json
import os
import sys
import traceback
import urllib.request

from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from llama_index.core.llms import ChatMessage
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai import OpenAI
from llama_index.llms.openai_like import OpenAILike
from pydantic import BaseModel

BASE_URL = os.environ["LEVAIN_BASE_URL"].rstrip("/")
KEY = os.environ.get("LEVAIN_API_KEY") or "none"
TESTS = []


def first_model():
    request = urllib.request.Request(BASE_URL + "/models", headers={"authorization": f"Bearer {KEY}"})
    with urllib.request.urlopen(request) as response:
        return json.loads(response.read())["data"][0]["id"]


MODEL = os.environ.get("LEVAIN_MODEL") or first_model()
HAS_TOOLS = os.environ.get("LEVAIN_HAS_TOOLS") == "1"
QUESTION = "What is the weather in Paris?"


class Place(BaseModel):
    """A place."""

    city: str
    capital: bool


def get_weather(city: str) -> str:
    """Tells the weather in a city."""
    return f"sunny in {city}"


def test(function):
    TESTS.append(function)
    return function


def langchain(**more):
    options = {"temperature": 0, "max_tokens": 200, "max_retries": 0, "timeout": 300, **more}
    return ChatOpenAI(model=MODEL, base_url=BASE_URL, api_key=KEY, **options)


def llama_index(**more):
    options = {"temperature": 0, "max_tokens": 32, "max_retries": 0, "timeout": 300, **more}
    return OpenAILike(model=MODEL, api_base=BASE_URL, api_key=KEY, context_window=2048, **options)


@test
def langchain_invoke_and_stream():
    chat = langchain(max_tokens=16)
    whole = chat.invoke("Say hello.")
    assert whole.content and whole.usage_metadata["output_tokens"] <= 16, whole
    pieces = list(chat.stream("Say hello."))
    assert len(pieces) > 2
    assert "".join(piece.content for piece in pieces) == whole.content
    assert all(answer.content for answer in chat.batch(["Hi", "Ho"]))


@test
def langchain_structured_output():
    for method in ["json_schema", "function_calling"] if HAS_TOOLS else ["json_schema"]:
        place = langchain().with_structured_output(Place, method=method).invoke("Name a capital city.")
        assert isinstance(place, Place), (method, place)
    both = langchain().with_structured_output(Place, method="json_schema", include_raw=True)
    assert isinstance(both.invoke("Name a capital city.")["parsed"], Place)


@test
def langchain_tools():
    if not HAS_TOOLS:
        return
    chat = langchain().bind_tools([tool(get_weather)], tool_choice="any")
    asked = [HumanMessage(QUESTION)]
    answer = chat.invoke(asked)
    [call] = answer.tool_calls
    assert call["name"] == "get_weather" and isinstance(call["args"]["city"], str), call
    streamed = None
    for piece in chat.stream(asked):
        streamed = piece if streamed is None else streamed + piece
    assert [(one["name"], one["args"]) for one in streamed.tool_calls] == [(call["name"], call["args"])]
    result = ToolMessage(get_weather(**call["args"]), tool_call_id=call["id"])
    assert isinstance(langchain().invoke([*asked, answer, result]).content, str)


@test
def llama_index_complete_chat_and_stream():
    model = llama_index(is_chat_model=True)
    assert model.complete("Say hello.").text
    messages = [ChatMessage(role="system", content="Be brief."), ChatMessage(role="user", content="Hello.")]
    whole = model.chat(messages).message.content
    assert whole and "".join(piece.delta for piece in model.stream_chat(messages)) == whole
    # The completions endpoint, as models without a template are asked.
    plain = llama_index(is_chat_model=False)
    text = plain.complete("Once upon a time").text
    assert text and "".join(piece.delta for piece in plain.stream_complete("Once upon a time")) == text


@test
def llama_index_tools_and_structure():
    if not HAS_TOOLS:
        return
    model = llama_index(is_chat_model=True, is_function_calling_model=True, max_tokens=200)
    answer = model.chat_with_tools([FunctionTool.from_defaults(get_weather)], QUESTION, tool_required=True)
    [call] = model.get_tool_calls_from_response(answer)
    assert call.tool_name == "get_weather" and isinstance(call.tool_kwargs["city"], str), call
    place = model.as_structured_llm(Place).complete("Name a capital city.").raw
    assert isinstance(place, Place), place


@test
def llama_index_own_class():
    # It takes OpenAI's names only, which the server may be asked for by an alias; a wrong one is refused in words.
    wrong = OpenAI(model="gpt-4o", api_base=BASE_URL, api_key=KEY, max_retries=0, timeout=300)
    try:
        wrong.complete("Say hello.")
    except Exception as error:
        assert type(error).__name__ == "NotFoundError" and "gpt-4o" in str(error), repr(error)
    else:
        assert MODEL == "gpt-4o", "a model that is not served answered"


failed = 0
for function in TESTS:
    try:
        function()
    except Exception:
        failed += 1
        print(f"FAILED {function.__name__}")
        traceback.print_exc(file=sys.stdout)
print(f"{len(TESTS) - failed} passed, {failed} failed, LangChain and LlamaIndex")
sys.exit(1 if failed else 0)
