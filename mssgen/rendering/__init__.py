"""Open training data: tracks with exact stems, rendered from free packages."""
