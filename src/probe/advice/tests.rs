use std::collections::HashSet;

use super::*;
use crate::probe::kinds::KINDS;

const KEYS: &str = include_str!("../../../config.example.toml");

fn all() -> Vec<(Failure, &'static str)> {
    let of_kinds = KINDS
        .iter()
        .flat_map(|kind| Failure::ALL.iter().filter_map(|failure| Some((*failure, of_kind(*failure, kind.name)?))));
    Failure::ALL.iter().map(|failure| (*failure, in_general(*failure))).chain(of_kinds).collect()
}

#[test]
fn every_failure_has_a_step_of_its_own() {
    let all = all();
    assert!(all.len() > Failure::ALL.len(), "no kind has steps of its own: were they renamed?");
    let steps: HashSet<&str> = all.iter().map(|(_, step)| *step).collect();
    assert_eq!(steps.len(), all.len(), "a step that fits two failures says little about either");
    for (failure, step) in all {
        let length = step.chars().count();
        assert!((15..=120).contains(&length), "{failure}: {length} characters");
        assert!(step.starts_with(|first: char| first.is_ascii_lowercase()), "{failure}: {step}");
        assert!(!step.ends_with('.') && !step.contains(". "), "{failure}: {step}");
    }
}

#[test]
fn what_a_kind_means_comes_first() {
    assert!(next_step(Failure::CertUntrusted, "ssh").contains("host_key"));
    assert!(next_step(Failure::CertUntrusted, "http").contains("authority"));
}

/// Whoever follows a step must find the key that it names.
#[test]
fn keys_that_are_named_exist() {
    let mut named = 0;
    for (failure, step) in all() {
        let plain = step.split('`').step_by(2);
        let words = plain.flat_map(|text| text.split(|c: char| !(c.is_ascii_alphanumeric() || "_.".contains(c))));
        let keys = words.filter(|word| word.contains('_') || word.starts_with("probe.") || word.starts_with("expect."));
        for key in keys {
            named += 1;
            let last = key.rsplit('.').next().unwrap();
            assert!(KEYS.contains(last), "{failure}: {key} is not in config.example.toml");
        }
    }
    assert!(named > 10, "only {named} keys: does the test still see them?");
}
