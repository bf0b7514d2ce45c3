"""The library under the verbs: files, prompts, model, training, scores."""
