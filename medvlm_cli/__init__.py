"""medvlm: train, measure and talk to your own high-resolution biomedical vision-language model."""

__version__ = "0.1.0"
