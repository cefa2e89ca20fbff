"""SecureLLM Bridge: the gateway between programs and language-model providers.

Importing this package starts nothing and imports nothing.
"""

__version__ = "0.1.0"
