"""Small, dependency-free functions for text, numbers and dates; import the module you need."""

__version__ = "1.0.0"
