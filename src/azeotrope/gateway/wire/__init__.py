"""What providers say, and one stream of events behind it all."""
