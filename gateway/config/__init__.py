"""The configuration: one frozen tree, read once."""

from gateway.config.bind import ConfigError
from gateway.config.load import load
from gateway.config.tree import Config

__all__ = ["Config", "ConfigError", "load"]
