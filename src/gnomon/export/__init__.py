"""Models on their way out: plain folders, GGUF for llama.cpp and Ollama, the hub.

Nothing here trains or samples; an export appears whole or not at all, and says what it was made of
(``gnomon_export.json``).
"""
