//! BlazeDB.
