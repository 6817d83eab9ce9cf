"""What programs do with the official Python client, and what they may rely on then.

    python openai_python.py BASE_URL KEY NARROW_BASE_URL

The second server has one sequence, and as many places as a request may have choices.
"""

import asyncio
import json
import sys
from typing import Literal

import openai
from openai import AsyncOpenAI, OpenAI
from pydantic import BaseModel, Field

BASE, KEY, NARROW = sys.argv[1:]
client = OpenAI(base_url=BASE, api_key=KEY, max_retries=0)
TALE = [{"role": "user", "content": "Once upon a time"}]


class Somebody(BaseModel):
    name: str = Field(max_length=12)
    age: int = Field(ge=0, le=120)
    pets: list[Literal["cat", "dog"]] = Field(min_length=1, max_length=2)


def chat(**fields):
    fields = {"model": "talker", "messages": TALE, "max_tokens": 20, "temperature": 0} | fields
    return client.chat.completions.create(**fields)


def text(**fields):
    fields = {"model": "talker", "prompt": "Once upon a time", "max_tokens": 20, "temperature": 0} | fields
    return client.completions.create(**fields)


def refused(kind, call, status, words, **expected):
    try:
        call()
    except kind as error:
        assert error.status_code == status, error
        assert words in error.message, error
        for name, value in expected.items():
            assert getattr(error, name) == value, (name, error.body)
        return
    raise AssertionError(f"expected {kind.__name__}: {words}")


def models():
    listed = client.models.list().data
    assert [model.id for model in listed] == ["talker"]
    model = client.models.retrieve("talker")
    assert model.object == "model" and model.created > 1_700_000_000
    gone = lambda: client.models.retrieve("gpt-4")
    refused(openai.NotFoundError, gone, 404, "this server has", code="model_not_found", param="model")


def conversation():
    answer = chat()
    choice = answer.choices[0]
    assert answer.object == "chat.completion" and answer.model == "talker"
    assert choice.message.role == "assistant" and choice.message.content
    assert choice.finish_reason == "length" and choice.message.tool_calls is None
    usage = answer.usage
    assert usage.completion_tokens == 20
    assert usage.total_tokens == usage.prompt_tokens + 20
    # The newer name of the limit, and parts of a message.
    parts = [{"type": "text", "text": "Once upon "}, {"type": "text", "text": "a time"}]
    newer = chat(max_tokens=openai.omit, max_completion_tokens=20, messages=[{"role": "user", "content": parts}])
    assert newer.choices[0].message.content == choice.message.content


def streams():
    whole = chat(n=2, temperature=0.8, seed=11)
    stream = chat(n=2, temperature=0.8, seed=11, stream=True, stream_options={"include_usage": True})
    texts, ends, usage = ["", ""], [None, None], None
    for part in stream:
        assert part.object == "chat.completion.chunk" and part.id.startswith("chatcmpl-")
        usage = part.usage or usage
        for choice in part.choices:
            texts[choice.index] += choice.delta.content or ""
            ends[choice.index] = choice.finish_reason or ends[choice.index]
    assert texts == [choice.message.content for choice in whole.choices]
    assert ends == [choice.finish_reason for choice in whole.choices]
    assert usage.completion_tokens == whole.usage.completion_tokens
    assert usage.prompt_tokens == whole.usage.prompt_tokens

    pieces = [part.choices[0].text for part in text(stream=True)]
    assert len(pieces) > 5 and "".join(pieces) == text().choices[0].text

    # The client's own reader of streams, which puts the answer together again once it comes to its end.
    content = chat().choices[0].message.content
    word = " " + content.split()[4]
    fields = {"model": "talker", "messages": TALE, "max_tokens": 20, "temperature": 0, "stop": [word]}
    with client.chat.completions.stream(**fields) as stream:
        deltas = [event.delta for event in stream if event.type == "content.delta"]
        final = stream.get_final_completion()
    assert "".join(deltas) == final.choices[0].message.content == content[: content.index(word)]


def choices():
    drawn = chat(n=3, temperature=0.9, seed=5)
    contents = [choice.message.content for choice in drawn.choices]
    assert [choice.index for choice in drawn.choices] == [0, 1, 2]
    assert len(set(contents)) > 1
    assert contents == [choice.message.content for choice in chat(n=3, temperature=0.9, seed=5).choices]
    assert contents[0] == chat(temperature=0.9, seed=5).choices[0].message.content
    other = [choice.message.content for choice in chat(n=3, temperature=0.9, seed=6).choices]
    assert other != contents
    several = text(prompt=["Once upon a time", "The little dog"], n=2)
    assert [choice.index for choice in several.choices] == [0, 1, 2, 3]
    assert several.choices[0].text == several.choices[1].text == text().choices[0].text


def ends():
    whole = text().choices[0].text
    word = whole.split()[4]
    stopped = text(stop=[" " + word, "zzz"])
    assert stopped.choices[0].finish_reason == "stop"
    assert stopped.choices[0].text == whole[: whole.index(" " + word)]
    long = text(max_tokens=5000, extra_body={"ignore_eos": True})
    assert long.choices[0].finish_reason == "length"
    assert long.usage.total_tokens <= 257, long.usage


def probabilities():
    answer = chat(logprobs=True, top_logprobs=3, max_tokens=6)
    tokens = answer.choices[0].logprobs.content
    assert len(tokens) == 6
    assert "".join(token.token for token in tokens) == answer.choices[0].message.content
    for token in tokens:
        assert len(token.top_logprobs) == 3
        # Without chance the most probable token is taken.
        assert token.token == token.top_logprobs[0].token and token.logprob <= 0
        assert bytes(token.bytes).decode() == token.token
    older = text(logprobs=2, max_tokens=6).choices[0].logprobs
    assert len(older.tokens) == len(older.token_logprobs) == len(older.text_offset) == 6
    assert all(len(top) == 2 for top in older.top_logprobs)


def responses():
    fields = {"model": "talker", "input": "Once upon a time", "max_output_tokens": 20, "temperature": 0}
    text = chat().choices[0].message.content
    whole = client.responses.create(**fields, metadata={"a": "b"})
    assert whole.output_text == text and whole.id.startswith("resp_")
    assert whole.status == "incomplete" and whole.incomplete_details.reason == "max_output_tokens"
    assert whole.usage.output_tokens == 20 and whole.metadata == {"a": "b"}
    assert whole.usage.total_tokens == whole.usage.input_tokens + 20
    assert whole.store is False and whole.model == "talker"

    events = list(client.responses.create(**fields, stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert events[0].type == "response.created" and events[-1].type == "response.incomplete"
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert "".join(deltas) == text == events[-1].response.output_text

    # The client's own reader of streams, of an answer that comes to its end.
    word = " " + text.split()[4]
    with client.responses.stream(**fields, extra_body={"stop": [word]}) as stream:
        deltas = [event.delta for event in stream if event.type == "response.output_text.delta"]
        final = stream.get_final_response()
    assert final.status == "completed" and "".join(deltas) == final.output_text == text[: text.index(word)]

    turns = [
        {"role": "developer", "content": "Tell."},
        {"role": "user", "content": [{"type": "input_text", "text": "Once upon a time"}]},
    ]
    told = client.responses.create(**(fields | {"input": turns}), top_logprobs=2, include=["message.output_text.logprobs"])
    assert len(told.output[0].content[0].logprobs) == 20
    assert client.responses.create(**fields, instructions="Tell.").output_text == told.output_text
    # An answer is given back as it came, with what is said next.
    more = turns + told.output + [{"role": "user", "content": "And then?"}]
    assert client.responses.create(**(fields | {"input": more})).usage.input_tokens > told.usage.total_tokens

    bad = openai.BadRequestError
    earlier = lambda: client.responses.create(**fields, previous_response_id=whole.id)
    refused(bad, earlier, 400, "keeps nothing", param="previous_response_id")
    tools = lambda: client.responses.create(**fields, tools=[{"type": "web_search"}])
    refused(bad, tools, 400, "not supported", code="unsupported_parameter")
    refused(openai.NotFoundError, lambda: client.responses.retrieve(whole.id), 404, "keeps no responses")
    refused(openai.NotFoundError, lambda: client.responses.create(**(fields | {"model": "gpt-4"})), 404, "this server has")


def forms():
    """Answers in JSON, of a model that knows none; the client makes objects of them."""
    fields = {"model": "talker", "temperature": 1, "seed": 5}
    choices = client.chat.completions.parse(messages=TALE, n=3, response_format=Somebody, **fields).choices
    assert all(isinstance(choice.message.parsed, Somebody) for choice in choices)
    assert choices[0].message.content != choices[1].message.content
    with client.chat.completions.stream(messages=TALE, response_format=Somebody, **fields) as stream:
        final = stream.get_final_completion()
    assert final.choices[0].message.parsed == choices[0].message.parsed
    parsed = client.responses.parse(model="talker", input="Once upon a time", temperature=1, text_format=Somebody)
    assert isinstance(parsed.output_parsed, Somebody)
    some = chat(max_tokens=200, response_format={"type": "json_object"})
    if some.choices[0].finish_reason == "stop":
        assert isinstance(json.loads(some.choices[0].message.content), dict)
    assert some.choices[0].message.content.lstrip().startswith("{")
    nonsense = {"type": "json_schema", "json_schema": {"name": "nonsense", "schema": {"type": "nonsense"}}}
    refused(openai.BadRequestError, lambda: chat(response_format=nonsense), 400, "nonsense", param="response_format")


def refusals():
    bad = openai.BadRequestError
    refused(openai.NotFoundError, lambda: chat(model="gpt-4"), 404, "talker", code="model_not_found")
    refused(bad, lambda: chat(temperature=3), 400, "expected 0 to 2", param="temperature")
    refused(bad, lambda: chat(messages=[]), 400, "is empty", param="messages")
    refused(bad, lambda: chat(n=99), 400, "expected 1 to 16", param="n")
    refused(bad, lambda: text(logit_bias={"99999": 1}), 400, "token id", param="logit_bias")
    refused(bad, lambda: text(extra_body={"temprature": 0}), 400, "not supported", code="unsupported_parameter")
    image = [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}]
    refused(bad, lambda: chat(messages=[{"role": "user", "content": image}]), 400, "not supported", param="messages")
    long = "once upon a time " * 200
    refused(bad, lambda: text(prompt=long), 400, "context", code="context_length_exceeded")
    stranger = OpenAI(base_url=BASE, api_key="another", max_retries=0)
    refused(openai.AuthenticationError, lambda: stranger.models.list(), 401, "key")
    refused(openai.NotFoundError, lambda: client.files.list(), 404, "nothing under this path")


async def many():
    prompts = [f"{name} was a little {animal}" for name in ["Mia", "Tom", "Ben"] for animal in ["cat", "dog", "bird", "fish"]]
    alone = [text(prompt=prompt, max_tokens=30).choices[0].text for prompt in prompts]
    async with AsyncOpenAI(base_url=BASE, api_key=KEY, max_retries=0) as client:
        ask = lambda prompt: client.completions.create(model="talker", prompt=prompt, max_tokens=30, temperature=0)
        answers = await asyncio.gather(*map(ask, prompts))
    assert [answer.choices[0].text for answer in answers] == alone


def crowds():
    """A server that is full says so, and the client's own retries get through once there is room."""
    fields = {"model": "talker", "prompt": "Once upon a time", "temperature": 0}
    narrow = OpenAI(base_url=NARROW, api_key=KEY, max_retries=0)
    fill = narrow.completions.create(n=16, max_tokens=240, stream=True, extra_body={"ignore_eos": True}, **fields)
    next(iter(fill))
    ask = lambda client: client.completions.create(max_tokens=1, **fields)
    refused(openai.RateLimitError, lambda: ask(narrow), 429, "too many requests")
    fill.close()
    assert ask(narrow.with_options(max_retries=5)).choices[0].text


for check in [models, conversation, streams, choices, ends, probabilities, responses, forms, refusals, crowds]:
    check()
asyncio.run(many())
