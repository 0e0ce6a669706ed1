"""Asks the endpoint at the URL in the first argument as any client of the dialect would, and fails where an answer is not as it should be."""

import sys
import time

import openai

url = sys.argv[1]
client = openai.OpenAI(base_url=url, api_key="sk-try", max_retries=0, timeout=60)

for attempt in range(100):
    try:
        model = client.models.list().data[0].id
        break
    except (openai.APIConnectionError, openai.InternalServerError):
        if attempt == 99:
            raise
        time.sleep(0.2)
print("models.list", model)

named = {"x-conversation-id": "python"}
hello = [{"role": "user", "content": "The code of the garage is 4711."}]
whole = client.chat.completions.with_raw_response.create(model=model, messages=hello, max_tokens=8, extra_headers=named)
assert whole.headers["x-conversation-id"] == "python", whole.headers
answer = whole.parse()
assert answer.choices[0].message.role == "assistant" and answer.usage.completion_tokens > 0, answer
print("whole answer", answer.usage.completion_tokens, "tokens")

ask = [{"role": "user", "content": "What is the code of my garage?"}]
stream = client.chat.completions.create(model=model, messages=ask, max_tokens=8, stream=True, extra_headers=named,
                                        stream_options={"include_usage": True})
chunks = list(stream)
assert any(chunk.choices and chunk.choices[0].delta.content for chunk in chunks) and chunks[-1].usage, chunks[-1]
print("stream", len(chunks), "chunks")

by_user = client.chat.completions.create(model=model, messages=hello, max_tokens=2, user="anna")
assert by_user.choices, by_user
print("named by user")

try:
    client.chat.completions.create(model="no such model", messages=hello)
    raise SystemExit("a model that is not there was answered")
except openai.APIStatusError as error:
    assert error.status_code in (400, 404) and error.body["message"], error
    print("error", error.status_code, type(error).__name__)

try:
    client.chat.completions.create(model=model, messages=[])
    raise SystemExit("a request without messages was answered")
except openai.BadRequestError as error:
    assert error.code == "invalid_request", error
    print("error", error.status_code, error.code)
print("all as it should be")
