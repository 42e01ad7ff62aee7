"""The architectures that the planner knows: a table of the fields of config.json for each.

What the stack builds was read from mcore-bridge 1.6.5, mcore_bridge/config/parser.py and
mcore_bridge/model, and from the configuration classes of transformers 5.19, whose defaults apply
where a field is absent.
"""

from planner.architectures.deepseek import DEEPSEEK
from planner.architectures.others import LLAMA, OTHERS
from planner.architectures.qwen import QWEN
from planner.architectures.rules import Architecture

__all__ = ["ARCHITECTURES", "Architecture"]

ARCHITECTURES: dict[str, Architecture] = QWEN | DEEPSEEK | LLAMA | OTHERS
