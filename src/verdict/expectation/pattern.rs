//! Regular expressions that other people wrote.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use regex::{Regex, RegexBuilder};

use crate::settings::reader::TableReader;

/// Compiled size and cache, bytes, each: enough for `\w{20}` and alternatives of some hundred words, and
/// `(a{1000}){1000}` is refused. Matching is linear in the text whatever the pattern.
const SIZE_MAX: usize = 1 << 20;
/// Length of the pattern as written, bytes: parsing costs memory in proportion.
const PATTERN_MAX: usize = 4096;

/// Reads a regular expression.
pub(crate) fn read(table: &mut TableReader<'_>, key: &'static str) -> Option<Regex> {
    let text = table.string(key)?;
    if text.len() > PATTERN_MAX {
        table.error(key, "the regular expression is too long", format!("must be at most {PATTERN_MAX} bytes"));
        return None;
    }
    match compile(&text) {
        Ok(regex) => Some(regex),
        Err(regex::Error::CompiledTooBig(_)) => {
            let allowed = "use smaller repetitions: it must compile to at most 1 MiB".to_owned();
            table.error(key, "the regular expression is too big when compiled", allowed);
            None
        }
        Err(error) => {
            // The library draws the pattern with a caret below; its last line says what is wrong, and does not quote.
            let text = error.to_string();
            let last = text.lines().last().unwrap_or_default();
            let why = last.trim().trim_start_matches("error: ");
            let allowed = "must be a regular expression as the Rust crate regex reads it (no look-around)".to_owned();
            table.error(key, format!("not a regular expression: {why}"), allowed);
            None
        }
    }
}

/// Compiles, or shares what was compiled lately: a pattern in `[defaults]` is read once for each monitor, and compiled
/// anew it would cost every one of them its time and some 10 KiB.
pub(crate) fn compile(text: &str) -> Result<Regex, regex::Error> {
    const KEPT: usize = 64;
    static LATELY: Mutex<VecDeque<Regex>> = Mutex::new(VecDeque::new());
    let lately = || LATELY.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(regex) = lately().iter().find(|regex| regex.as_str() == text) {
        return Ok(regex.clone());
    }
    let regex = RegexBuilder::new(text).size_limit(SIZE_MAX).dfa_size_limit(SIZE_MAX).nest_limit(64).build()?;
    let mut lately = lately();
    lately.truncate(KEPT - 1);
    lately.push_front(regex.clone());
    Ok(regex)
}
