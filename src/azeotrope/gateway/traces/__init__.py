"""OpenTelemetry traces of requests, when asked for. Nothing here is loaded otherwise but the settings."""
