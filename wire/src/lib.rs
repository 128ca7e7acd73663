//! BlazeDB wire.
