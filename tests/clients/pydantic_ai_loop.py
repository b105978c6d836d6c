"""An agent of Pydantic AI: pydantic_ai_loop.py BASE_URL responses|chat whole|stream|typed."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any, Literal

from pydantic import BaseModel, Field
from pydantic_ai import Agent, ModelSettings, NativeOutput, RunContext
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider

asked: list[str] = []


class City(BaseModel):
    name: Literal["Oslo", "Rome"]
    people: int = Field(ge=0, le=50_000_000)


def settings(run: RunContext[Any]) -> ModelSettings:
    """A call first, and an answer after it."""
    return ModelSettings(
        tool_choice="required" if run.run_step == 1 else "auto",
        parallel_tool_calls=False,
        max_tokens=60,
        temperature=0,
    )


def weather(city: Literal["Oslo", "Rome"]) -> str:
    """The weather in a city."""
    asked.append(city)
    return "rain"


async def main(base_url: str, api: str, how: str) -> None:
    kind = OpenAIResponsesModel if api == "responses" else OpenAIChatModel
    model = kind("m", provider=OpenAIProvider(base_url=base_url, api_key="none needed"))
    if how == "typed":
        typist = Agent(model, output_type=NativeOutput(City), model_settings={"max_tokens": 60})
        print(json.dumps((await typist.run("A city")).output.model_dump()))
        return
    agent = Agent(model, instructions="Be short", tools=[weather], model_settings=settings)
    if how == "stream":
        async with agent.run_stream("What is the weather in Oslo?") as streamed:
            text = [piece async for piece in streamed.stream_text(delta=True)]
    else:
        text = [(await agent.run("What is the weather in Oslo?")).output]
    print(json.dumps({"text": "".join(text), "pieces": len(text), "asked": asked}))


asyncio.run(main(*sys.argv[1:]))
