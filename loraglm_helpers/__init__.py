"""Helpers of the LoRA-GLM notebooks: read data, build GLM sequences, train adapters, merge, answer.

Importing the package loads nothing heavy; each name is imported from the module that holds it.
"""

import logging

__version__ = "0.1.0"

# Where bitsandbytes is installed, peft loads it, and it warns of an optional kernel at once and, in
# every layer and step, that 8-bit inputs are rounded. Its errors are exceptions, so none is lost.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
