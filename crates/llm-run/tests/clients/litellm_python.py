"""The library that many programs speak to any provider with.

    python litellm_python.py BASE_URL KEY
"""

import asyncio
import json
import os
import sys

# Prices of hosted models are nothing to ask the network for.
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"

import litellm

BASE, KEY = sys.argv[1:]
TALE = [{"role": "user", "content": "Once upon a time"}]
COMMON = {"model": "openai/talker", "api_base": BASE, "api_key": KEY, "num_retries": 0}
SHORT = {"max_tokens": 20, "temperature": 0}


def chat(**fields):
    return litellm.completion(**(COMMON | SHORT | {"messages": TALE} | fields))


def refused(kind, **fields):
    try:
        chat(**fields)
    except kind as error:
        return str(error)
    raise AssertionError(f"expected {kind.__name__}")


def answers():
    whole = chat()
    choice = whole.choices[0]
    assert choice.message.role == "assistant" and choice.message.content
    assert choice.finish_reason == "length"
    assert whole.usage.completion_tokens == 20
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + 20

    parts = list(chat(stream=True, stream_options={"include_usage": True}))
    streamed = "".join(part.choices[0].delta.content or "" for part in parts if part.choices)
    assert streamed == choice.message.content
    built = litellm.stream_chunk_builder(parts, messages=TALE)
    assert built.choices[0].message.content == choice.message.content
    assert built.usage.completion_tokens == 20

    text = litellm.text_completion(**COMMON, **SHORT, prompt="Once upon a time")
    assert text.choices[0].text and text.usage.completion_tokens == 20


def fields():
    drawn = [[choice.message.content for choice in chat(n=2, temperature=0.9, seed=3).choices] for _ in range(2)]
    assert drawn[0] == drawn[1] and drawn[0][0] != drawn[0][1]
    whole = chat().choices[0].message.content
    word = " " + whole.split()[4]
    stopped = chat(stop=[word]).choices[0]
    assert stopped.finish_reason == "stop" and stopped.message.content == whole[: whole.index(word)]
    probable = chat(logprobs=True, top_logprobs=2, max_tokens=3).choices[0].logprobs
    assert len(probable.content) == 3 and len(probable.content[0].top_logprobs) == 2


def forms():
    schema = {"type": "object", "properties": {"age": {"type": "integer", "minimum": 0, "maximum": 9}}, "required": ["age"]}
    schema["additionalProperties"] = False
    form = {"type": "json_schema", "json_schema": {"name": "age", "strict": True, "schema": schema}}
    assert "age" in json.loads(chat(response_format=form, max_tokens=60).choices[0].message.content)


def refusals():
    assert "this server has" in refused(litellm.NotFoundError, model="openai/gpt-4")
    assert "expected 0 to 2" in refused(litellm.BadRequestError, temperature=3)
    assert "key" in refused(litellm.AuthenticationError, api_key="another")
    long = [{"role": "user", "content": "once upon a time " * 200}]
    assert "context" in refused(litellm.BadRequestError, messages=long)


async def many():
    whole = chat().choices[0].message.content
    ask = lambda: litellm.acompletion(**(COMMON | SHORT | {"messages": TALE}))
    answers = await asyncio.gather(*(ask() for _ in range(8)))
    assert [answer.choices[0].message.content for answer in answers] == [whole] * 8


for check in [answers, fields, forms, refusals]:
    check()
asyncio.run(many())
