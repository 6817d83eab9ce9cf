//! Loads and runs language models, and says beforehand what goes where.
fn main() {}
