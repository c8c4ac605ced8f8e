"""The defended gateway: one policy in front of any OpenAI-compatible server. No torch below this package."""
