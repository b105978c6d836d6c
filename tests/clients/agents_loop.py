"""An agent of openai-agents with a tool: agents_loop.py BASE_URL responses|chat whole|stream."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Literal

from agents import (
    Agent,
    ModelSettings,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    Runner,
    function_tool,
    set_tracing_disabled,
)
from openai import AsyncOpenAI

asked: list[str] = []
SETTINGS = ModelSettings(
    tool_choice="required",  # which agents ask for once, and leave the model its choice after
    parallel_tool_calls=False,
    max_tokens=60,
    temperature=0,
)


@function_tool
def weather(city: Literal["Oslo", "Rome"]) -> str:
    """The weather in a city."""
    asked.append(city)
    return "rain"


async def main(base_url: str, api: str, how: str) -> None:
    set_tracing_disabled(True)
    client = AsyncOpenAI(base_url=base_url, api_key="none needed", max_retries=0)
    kind = OpenAIResponsesModel if api == "responses" else OpenAIChatCompletionsModel
    model = kind(model="m", openai_client=client)
    agent = Agent(
        name="Forecaster",
        instructions="Be short",
        tools=[weather],
        model=model,
        model_settings=SETTINGS,
    )
    if how == "stream":
        result = Runner.run_streamed(agent, "What is the weather in Oslo?")
        events = [event.type async for event in result.stream_events()]
    else:
        result, events = await Runner.run(agent, "What is the weather in Oslo?"), []
    items = [item.type for item in result.new_items]
    print(
        json.dumps(
            {
                "text": result.final_output,
                "asked": asked,
                "items": items,
                "streamed": "raw_response_event" in events,
            }
        )
    )


asyncio.run(main(*sys.argv[1:]))
