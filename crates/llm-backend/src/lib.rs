//! The operations a device offers, and a slow, obvious reference for them.
