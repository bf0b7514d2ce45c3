"""The conversation in a terminal: what is typed, what is shown, and nothing of how an answer is made."""
