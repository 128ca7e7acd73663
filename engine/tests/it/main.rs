//! Tests of the store through its front door, one binary.

mod backup;
mod clocks;
mod concurrency;
mod crash;
mod damage;
mod estimate;
mod faults;
mod headers;
mod history;
mod large;
mod load;
mod mapping;
mod model;
mod moments;
mod paths;
mod recovery;
mod rekey;
mod salvage;
mod secrets;
mod shorten;
mod support;
mod vacuum;
mod values;
mod views;
