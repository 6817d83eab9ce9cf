"""What programs do with Ollama's official Python client, and what they may rely on then.

    python ollama_python.py HOST KEY TEXT_HOST

The second server's model has no chat template, and no key.
"""

import asyncio
import sys
from datetime import datetime, timezone
from typing import Literal

import ollama
from pydantic import BaseModel, Field

HOST, KEY, TEXT_HOST = sys.argv[1:]
client = ollama.Client(HOST, headers={"authorization": f"Bearer {KEY}"})
TALE = [{"role": "user", "content": "Once upon a time"}]
GREEDY = {"temperature": 0, "num_predict": 20}


class Somebody(BaseModel, extra="forbid"):
    name: str = Field(max_length=12)
    age: int = Field(ge=0, le=120)
    pets: list[Literal["cat", "dog"]] = Field(min_length=1, max_length=2)


def chat(options={}, **fields):
    return client.chat(**({"model": "talker", "messages": TALE} | fields), options=GREEDY | options)


def generate(options={}, **fields):
    return client.generate(**({"model": "talker", "prompt": "Once upon a time"} | fields), options=GREEDY | options)


def refused(call, status, words):
    try:
        call()
    except ollama.ResponseError as error:
        assert error.status_code == status, error
        assert words in error.error, error.error
        return
    raise AssertionError(f"expected {status}: {words}")


def counted(answer, n_tokens):
    assert answer.done and answer.done_reason == "length"
    assert answer.eval_count == n_tokens and answer.prompt_eval_count > 0
    assert answer.total_duration >= answer.prompt_eval_duration + answer.eval_duration
    assert answer.prompt_eval_duration > 0 and answer.eval_duration > 0
    assert answer.load_duration is not None
    said = datetime.fromisoformat(answer.created_at.replace("Z", "+00:00")[:26] + "+00:00")
    assert abs((datetime.now(timezone.utc) - said).total_seconds()) < 60


def models():
    [model] = client.list().models
    assert model.model == "talker:latest" and len(model.digest) == 64
    assert model.size > 100_000 and model.modified_at.year >= 2024
    assert model.details.family == "llama" and model.details.parameter_size
    shown = client.show("talker")
    assert shown.capabilities == ["completion"]
    assert shown.modelinfo["general.architecture"] == "llama"
    assert shown.modelinfo["general.parameter_count"] > 100_000
    assert shown.modelinfo["llama.context_length"] == 256
    assert shown.details == model.details
    [running] = client.ps().models
    assert running.model == "talker:latest" and running.digest == model.digest
    assert running.context_length == 256 and running.expires_at.year > 2100
    refused(lambda: client.show("llama3"), 404, "model 'llama3' not found")


def conversation():
    whole = chat()
    assert whole.model == "talker" and whole.message.role == "assistant" and whole.message.content
    counted(whole, 20)
    parts = list(chat(stream=True, model="talker:latest"))
    assert "".join(part.message.content for part in parts) == whole.message.content
    assert all(not part.done and part.message.role == "assistant" for part in parts[:-1])
    assert len(parts) > 5
    counted(parts[-1], 20)
    assert chat(messages=[]).done_reason == "load"


def continuation():
    whole = generate()
    assert whole.response
    counted(whole, 20)
    parts = list(generate(stream=True))
    assert "".join(part.response for part in parts) == whole.response
    counted(parts[-1], 20)
    raw = generate(raw=True)
    tales = ollama.Client(TEXT_HOST)
    # A model without a template continues what it is given.
    plain = tales.generate(model="demo", prompt="Once upon a time", options=GREEDY)
    assert plain.response == raw.response
    with_system = generate(system="Tell a tale.")
    assert with_system.prompt_eval_count > whole.prompt_eval_count
    assert generate(prompt="").done_reason == "load"
    refused(lambda: tales.chat(model="demo", messages=TALE), 400, "no chat template")


def options():
    drawn = lambda seed: chat({"temperature": 0.9, "seed": seed, "top_k": 40, "top_p": 0.95, "min_p": 0.01}).message.content
    assert drawn(3) == drawn(3) != drawn(4)
    # Seed -1 is none.
    assert len({drawn(-1) for _ in range(4)}) > 1
    whole = chat().message.content
    word = " " + whole.split()[4]
    stopped = chat({"stop": [word]})
    assert stopped.done_reason == "stop" and stopped.message.content == whole[: whole.index(word)]
    long = generate({"num_predict": 100})
    penalized = generate({"num_predict": 100, "repeat_penalty": 1.5})
    assert long.response != penalized.response
    # Limits of machines are nothing to an answer.
    machine = {"num_thread": 2, "num_gpu": 99, "num_batch": 64, "use_mmap": True, "num_ctx": 128, "repeat_last_n": -1}
    assert chat(machine, keep_alive="5m", think=False).message.content == whole
    full = generate({"num_predict": -1})
    assert full.done_reason in ("stop", "length") and full.eval_count > 20
    answer = chat({"num_predict": 3}, logprobs=True, top_logprobs=2)
    assert "".join(token.token for token in answer.logprobs) == answer.message.content
    assert [len(token.top_logprobs) for token in answer.logprobs] == [2, 2, 2]
    assert answer.logprobs[0].token == answer.logprobs[0].top_logprobs[0].token


def forms():
    """Answers in JSON, of a model that knows none."""
    fields = {"format": Somebody.model_json_schema(), "options": {"num_predict": -1, "temperature": 1}}
    for is_streamed in [False, True]:
        answer = chat(**fields, stream=is_streamed)
        text = "".join(part.message.content for part in answer) if is_streamed else answer.message.content
        assert Somebody.model_validate_json(text)
    assert generate(format="json").response.lstrip().startswith("{")


def refusals():
    refused(lambda: chat(model="llama3"), 404, "model 'llama3' not found")
    refused(lambda: chat({"temperature": 3}), 400, "expected 0 to 2")
    refused(lambda: chat({"mirostat": 2}), 400, "`mirostat` is not supported")
    refused(lambda: chat({"num_ctx": 4096}), 400, "--context 4096")
    refused(lambda: chat({"repeat_last_n": 64}), 400, "repeat_last_n")
    refused(lambda: generate(suffix="The end."), 400, "`suffix` is not supported")
    refused(lambda: generate(images=["aGVsbG8="]), 400, "`images` is not supported")
    refused(lambda: chat(think=True), 400, "`think`")
    refused(lambda: generate(prompt="once upon a time " * 200), 400, "context")
    refused(lambda: client.pull("llama3"), 501, "llm-run pull")
    refused(lambda: ollama.Client(HOST).list(), 401, "key")
    list_of = lambda: list(generate(stream=True, prompt="once upon a time " * 200))
    refused(list_of, 400, "context")


async def many():
    whole = generate().response
    asker = ollama.AsyncClient(HOST, headers={"authorization": f"Bearer {KEY}"})
    ask = lambda: asker.generate(model="talker", prompt="Once upon a time", options=GREEDY)
    answers = await asyncio.gather(*(ask() for _ in range(8)))
    assert [answer.response for answer in answers] == [whole] * 8


for check in [models, conversation, continuation, options, forms, refusals]:
    check()
asyncio.run(many())
