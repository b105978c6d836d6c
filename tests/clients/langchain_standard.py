"""LangChain's standard tests of a chat model, for ChatOpenAI with a gateway as its server.

A program of its own: `pytest langchain_standard.py` with GATEWAY=http://…/v1.
"""

from __future__ import annotations

import os
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_openai import ChatOpenAI
from langchain_tests.integration_tests import ChatModelIntegrationTests


class TestChats(ChatModelIntegrationTests):
    use_responses_api = False

    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatOpenAI

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {
            "model": "m",
            "base_url": os.environ["GATEWAY"],
            "api_key": "none needed",
            "use_responses_api": self.use_responses_api,
            "stream_usage": True,
            "timeout": 60,
            "max_tokens": 200,
            "temperature": 0,
            "model_kwargs": {"parallel_tool_calls": False},
            "extra_body": {"frequency_penalty": 0.3},  # or a small model's joke has no end
            "max_retries": 0,
        }

    @property
    def model_override_value(self) -> str:
        return "other"

    @property
    def supports_image_inputs(self) -> bool:
        return True

    @property
    def supports_image_urls(self) -> bool:
        return True

    @property
    def supports_anthropic_inputs(self) -> bool:
        return False

    @property
    def enable_vcr_tests(self) -> bool:
        return False


class TestResponses(TestChats):
    use_responses_api = True
