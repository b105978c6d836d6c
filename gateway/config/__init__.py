"""The configuration: one frozen tree, read once."""

from gateway.config.document import ConfigError
from gateway.config.load import load
from gateway.config.tree import Config

__all__ = ["Config", "ConfigError", "load"]
