"""The listening report: a page to hear, see and compare systems, without server or network."""
