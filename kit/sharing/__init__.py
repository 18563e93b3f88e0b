"""What others are let in on: voting pages for friends."""
