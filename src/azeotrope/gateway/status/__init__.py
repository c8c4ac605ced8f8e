"""The status page: what happened lately, from memory, for whoever runs the gateway."""
