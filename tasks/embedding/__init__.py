"""Model, tokens, batches, pooling: every layer's embeddings of a data set, shard by shard."""
