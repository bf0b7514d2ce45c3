"""The vision-language model: tower, three scales, connector, language model."""
