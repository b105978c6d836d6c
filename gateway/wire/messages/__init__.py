"""Anthropic's Messages API, told in chats: requests to chats, and a chat's events back."""
