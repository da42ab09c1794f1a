"""What is known of every value without running the model: type, shape, and the elements of what computes shapes."""
