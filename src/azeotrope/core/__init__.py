"""The nouns: problems, traces, releases, access levels, methods, seeds, errors. No torch."""
