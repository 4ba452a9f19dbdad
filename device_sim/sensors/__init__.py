"""What a simulated device sees."""
