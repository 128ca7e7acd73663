//! Tests of the formats from outside: vectors of spec/vectors, properties, limits at their edges, damage.

mod batches;
mod columns;
mod damage;
mod known;
mod limits;
mod numbers;
mod properties;
mod reserved;
mod rules;
mod vectors;
