"""An agent of Pydantic AI: pydantic_ai_loop.py BASE_URL responses|chat whole|stream|typed."""

from __future__ import annotations

import asyncio
import json
import sys

from pydantic import BaseModel
from pydantic_ai import Agent, NativeOutput
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider

asked: list[str] = []


class City(BaseModel):
    name: str
    people: int


def weather(city: str) -> str:
    """The weather in a city."""
    asked.append(city)
    return "rain"


async def main(base_url: str, api: str, how: str) -> None:
    kind = OpenAIResponsesModel if api == "responses" else OpenAIChatModel
    model = kind("m", provider=OpenAIProvider(base_url=base_url, api_key="none needed"))
    if how == "typed":
        city = (await Agent(model, output_type=NativeOutput(City)).run("A city")).output
        print(json.dumps(city.model_dump()))
        return
    agent = Agent(model, instructions="Be short", tools=[weather])
    if how == "stream":
        async with agent.run_stream("What is the weather?") as streamed:
            text = [piece async for piece in streamed.stream_text(delta=True)]
    else:
        text = [(await agent.run("What is the weather?")).output]
    print(json.dumps({"text": "".join(text), "pieces": len(text), "tools": len(asked)}))


asyncio.run(main(*sys.argv[1:]))
