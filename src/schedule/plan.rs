//! When a monitor is due.

use croner::parser::{CronParser, Seconds, Year};

/// Longest cron expression, bytes: expressions come from rows of other people.
const MAX_EXPRESSION: usize = 256;

/// Checks a cron expression of five fields, or six with seconds first. The error is a sentence for its author.
pub fn validate_cron(expression: &str) -> Result<(), String> {
    if expression.len() > MAX_EXPRESSION {
        return Err(format!("a cron expression is at most {MAX_EXPRESSION} bytes long"));
    }
    let parser = CronParser::builder().seconds(Seconds::Optional).year(Year::Disallowed).build();
    parser.parse(expression).map(|_| ()).map_err(|why| why.to_string())
}
