"""What an answer is worth, by the published rules and by honest ones, with intervals; nothing here loads a model."""
