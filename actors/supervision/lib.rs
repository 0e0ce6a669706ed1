//! Supervision trees on ractor.
