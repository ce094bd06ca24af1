"""What is special about Trinity."""
