//! BlazeDB engine.
