//! From a model's configuration to its skeleton: the weights it needs and the blocks they form.
