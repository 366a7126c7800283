//! What scripts say, with real processes.
