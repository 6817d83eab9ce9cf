//! Binds a model to a checkpoint, loads it, and runs it token by token.
