"""Helpers of the LoRA-GLM notebooks: read data, build GLM sequences, train adapters, merge, answer.

Importing the package loads nothing heavy; each name is imported from the module that holds it.
"""

__version__ = "0.1.0"
