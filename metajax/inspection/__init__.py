"""What happens within one task, for who asks."""
