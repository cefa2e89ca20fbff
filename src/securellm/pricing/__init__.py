"""What an answer costs: usage times price, in integer nano-USD."""
