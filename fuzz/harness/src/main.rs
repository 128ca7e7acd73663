//! Runs the simulated world.
fn main() {}
