"""Few-shot classification of pictures for people who do not write training loops."""
