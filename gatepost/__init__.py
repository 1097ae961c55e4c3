"""gatepost lets an application receive email.

This file imports nothing, so that a door pays only for what it uses. The map of the house is docs/design.md.
"""

__version__ = "0.1.0"
