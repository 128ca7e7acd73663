//! The house rules that a machine can check: who may depend on whom, what pure code may not touch, and that every
//! document still names things that exist.
//!
//! Each rule is a function from a [`Tree`] (path to text) to a list of [`Offence`]s, run here on the repository and,
//! beside the rule, on a small made-up tree that breaks it: an alarm that cannot ring is worth nothing. Reads files
//! only, needs nothing but the standard library. A rule that annoys more than it catches should be deleted.
//!
//! Read [`tree`] first (how files are read and how comments are told from code), then the rules: [`manifests`],
//! [`sources`], [`modules`], [`rules`], [`docs`].

mod docs;
mod manifests;
mod modules;
mod rules;
mod sources;
mod tree;

use std::fmt::Write as _;

use tree::{Offence, Tree};

/// Runs one rule on the repository and fails with the readable list of what breaks it.
fn check(rule: impl Fn(&Tree) -> Vec<Offence>) {
    let offences = rule(&Tree::of_repository());
    let mut report = String::new();
    for Offence { path, line, what } in &offences {
        writeln!(report, "  {path}:{line}: {what}").expect("writing to a string cannot fail");
    }
    assert!(offences.is_empty(), "{} offence(s):\n{report}", offences.len());
}

#[test]
fn rooms_depend_downwards_only() {
    check(manifests::direction);
}

#[test]
fn every_dependency_has_a_reason() {
    check(manifests::reasons);
}

#[test]
fn testing_features_stay_out_of_the_product() {
    check(manifests::testing_features);
}

#[test]
fn unsafe_is_forbidden_where_promised() {
    check(sources::forbids_unsafe);
}

#[test]
fn pure_rooms_do_not_touch_the_world() {
    check(sources::no_world);
}

#[test]
fn every_module_opens_with_its_purpose() {
    check(sources::opens_with_purpose);
}

#[test]
fn nothing_is_left_over() {
    check(sources::leftovers);
}

#[test]
fn no_test_is_ignored() {
    check(sources::ignored_tests);
}

#[test]
fn sources_are_ascii() {
    check(sources::ascii);
}

#[test]
fn files_stay_readable_in_length() {
    check(sources::length);
}

#[test]
fn every_source_file_is_compiled_by_something() {
    check(modules::forgotten_files);
}

#[test]
fn cited_rules_exist() {
    check(rules::citations);
}

#[test]
fn every_must_is_tested() {
    check(rules::musts_are_tested);
}

#[test]
fn architecture_names_what_exists() {
    check(docs::architecture_names);
}

#[test]
fn promises_name_proof_that_exists() {
    check(docs::promised_proof);
}

#[test]
fn links_between_documents_lead_somewhere() {
    check(docs::links);
}

#[test]
fn readme_and_ci_agree_on_the_commands() {
    check(docs::commands);
}
