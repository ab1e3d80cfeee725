"""The page on which systems are heard, seen and compared: no server, no outside scripts."""
