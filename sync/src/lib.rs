//! BlazeDB sync.
