//! The integration tests.

mod api;
mod crashers;
mod tidy;
