//! Holds any backend against [`Reference`](crate::Reference).
