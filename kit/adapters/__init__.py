"""What is trained, saved and stacked."""
