"""What happened, durable before the answer: records, their chain, the writer, checkpoints, the index."""
