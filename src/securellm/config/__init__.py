"""The configuration: one frozen tree, loaded and checked at start.

Importing this starts nothing and imports nothing heavy, as the binding of the socket waits for it.
"""

from securellm.config.load import load_config
from securellm.config.mistakes import ConfigMistakes, Mistake
from securellm.config.secrets import Secret
from securellm.config.tree import Config

__all__ = ["Config", "ConfigMistakes", "Mistake", "Secret", "load_config"]
