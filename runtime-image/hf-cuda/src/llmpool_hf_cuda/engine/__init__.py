"""The model's side: KV cells, sessions, batching, sampling."""
