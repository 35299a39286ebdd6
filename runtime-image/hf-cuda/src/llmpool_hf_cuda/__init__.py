"""One LLMPool instance on transformers: docs/hf-cuda.md."""
