"""The six verbs: options in, one call out."""
