//! Prometheus's text format 0.0.4 and OpenMetrics 1.0.0, from one description of the series.

use std::fmt::{Display, Write as _};

/// A text format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Prometheus's text format 0.0.4, which everything reads.
    Plain,
    /// OpenMetrics 1.0.0.
    OpenMetrics,
}

impl Format {
    /// What an `Accept` header asks for: OpenMetrics only by its name, at a quality that is not below plain text's.
    #[must_use]
    pub fn accepted(accept: &str) -> Self {
        let (mut open, mut plain) = (0.0, 0.0);
        for part in accept.split(',') {
            let mut parameters = part.split(';').map(str::trim);
            let kind = parameters.next().unwrap_or_default().to_ascii_lowercase();
            let (mut quality, mut version) = (1.0_f64, None);
            for parameter in parameters {
                match parameter.split_once('=') {
                    Some(("q", value)) => quality = value.parse().unwrap_or(0.0),
                    Some(("version", value)) => version = Some(value.trim_matches('"')),
                    _ => {}
                }
            }
            match kind.as_str() {
                // Of the versions a scraper lists, only this one is written.
                "application/openmetrics-text" if matches!(version, None | Some("1.0.0")) => {
                    open = quality.max(open);
                }
                "text/plain" => plain = quality.max(plain),
                _ => {}
            }
        }
        if open > 0.0 && open >= plain { Self::OpenMetrics } else { Self::Plain }
    }

    /// The value of `Content-Type`.
    #[must_use]
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Plain => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// What a family's samples are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows; its samples end in `_total`.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Buckets, a sum and a count.
    Histogram,
    /// A constant 1 whose labels say something; its samples end in `_info`.
    Info,
}

/// Labels of a sample, escaped and joined. Names are constants of ours, values are anybody's.
#[derive(Clone, Debug, Default)]
pub struct Labels(String);

impl Labels {
    /// No labels.
    #[must_use]
    pub const fn none() -> Self {
        Self(String::new())
    }

    /// One label.
    #[must_use]
    pub fn one(name: &'static str, value: &str) -> Self {
        Self::none().and(name, value)
    }

    /// One more label.
    #[must_use]
    pub fn and(mut self, name: &'static str, value: &str) -> Self {
        if !self.0.is_empty() {
            self.0.push(',');
        }
        self.0.push_str(name);
        self.0.push_str("=\"");
        escape(&mut self.0, value, true);
        self.0.push('"');
        self
    }
}

/// Both formats have these three escapes; plain help texts keep their quotes.
fn escape(out: &mut String, text: &str, quotes: bool) {
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '"' if quotes => out.push_str("\\\""),
            c => out.push(c),
        }
    }
}

/// A number of a sample.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value {
    /// Exact.
    Whole(u64),
    /// Anything else; not a number and infinities are written as such.
    Real(f64),
}

impl From<u64> for Value {
    fn from(value: u64) -> Self {
        Self::Whole(value)
    }
}

impl From<usize> for Value {
    fn from(value: usize) -> Self {
        Self::Whole(value as u64)
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Self::Whole(value.into())
    }
}

impl From<f64> for Value {
    fn from(value: f64) -> Self {
        Self::Real(value)
    }
}

impl Display for Value {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Whole(value) => value.fmt(f),
            Self::Real(value) if value.is_nan() => f.write_str("NaN"),
            Self::Real(value) if value.is_infinite() => f.write_str(if *value > 0.0 { "+Inf" } else { "-Inf" }),
            Self::Real(value) => value.fmt(f),
        }
    }
}

/// An answer to a scrape, as it is written.
#[derive(Debug)]
pub struct Exposition {
    format: Format,
    out: String,
}

impl Exposition {
    /// Nothing yet.
    #[must_use]
    pub fn new(format: Format) -> Self {
        Self { format, out: String::with_capacity(32 * 1024) }
    }

    /// Begins a family; a name comes once. `name` has its unit last and neither `_total` nor `_info`.
    pub fn family(&mut self, name: &'static str, kind: Kind, help: &str) -> Family<'_> {
        let open = self.format == Format::OpenMetrics;
        let suffix = match kind {
            Kind::Counter => "_total",
            Kind::Info => "_info",
            Kind::Gauge | Kind::Histogram => "",
        };
        // OpenMetrics names the family, the plain format its samples.
        let shown = if open { "" } else { suffix };
        let type_name = match kind {
            Kind::Counter => "counter",
            Kind::Histogram => "histogram",
            Kind::Info if open => "info",
            Kind::Info | Kind::Gauge => "gauge",
        };
        // Collecting into a String cannot fail.
        let _ = write!(self.out, "# HELP {name}{shown} ");
        escape(&mut self.out, help, open);
        let _ = writeln!(self.out, "\n# TYPE {name}{shown} {type_name}");
        let unit = ["seconds", "bytes"].into_iter().find(|unit| name.rsplit('_').next() == Some(*unit));
        if let Some(unit) = unit.filter(|_| open) {
            let _ = writeln!(self.out, "# UNIT {name} {unit}");
        }
        Family { out: &mut self.out, name, suffix }
    }

    /// A family of one sample without labels.
    pub fn single(&mut self, name: &'static str, kind: Kind, help: &str, value: impl Into<Value>) {
        self.family(name, kind, help).sample(&Labels::none(), value);
    }

    /// The whole text.
    #[must_use]
    pub fn finish(mut self) -> String {
        if self.format == Format::OpenMetrics {
            self.out.push_str("# EOF\n");
        }
        self.out
    }
}

/// A family, for its samples. Labels of two samples must differ.
#[derive(Debug)]
pub struct Family<'a> {
    out: &'a mut String,
    name: &'static str,
    suffix: &'static str,
}

impl Family<'_> {
    /// One sample.
    pub fn sample(&mut self, labels: &Labels, value: impl Into<Value>) {
        self.line(self.suffix, labels, "", value.into());
    }

    fn line(&mut self, suffix: &str, labels: &Labels, more: &str, value: Value) {
        self.out.push_str(self.name);
        self.out.push_str(suffix);
        if !labels.0.is_empty() || !more.is_empty() {
            let comma = if labels.0.is_empty() || more.is_empty() { "" } else { "," };
            for part in ["{", &labels.0, comma, more, "}"] {
                self.out.push_str(part);
            }
        }
        let _ = writeln!(self.out, " {value}");
    }

    /// A histogram: the upper bounds of its buckets in the family's unit, how many fell into each (one more than there
    /// are bounds), and their sum.
    pub fn histogram(&mut self, labels: &Labels, bounds: &[f64], counts: &[u64], sum: f64) {
        let mut total = 0;
        for (at, count) in counts.iter().enumerate() {
            total += count;
            let bound = bounds.get(at).copied().unwrap_or(f64::INFINITY);
            let le = format!("le=\"{}\"", Bound(bound));
            self.line("_bucket", labels, &le, total.into());
        }
        self.line("_sum", labels, "", sum.into());
        self.line("_count", labels, "", total.into());
    }
}

/// OpenMetrics wants a point in it: `1.0`.
struct Bound(f64);

impl Display for Bound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.0.is_infinite() { f.write_str("+Inf") } else { write!(f, "{:?}", self.0) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(format: Format) -> String {
        let mut out = Exposition::new(format);
        let hostile = Labels::one("name", "a\"b\\c\nd{}=, ü\u{1b}").and("id", "1");
        out.family("x_checks", Kind::Counter, "Checks, \"all\" of\nthem \\ more.").sample(&hostile, 3_u64);
        out.single("x_age_seconds", Kind::Gauge, "Age.", 0.25);
        out.family("x_build", Kind::Info, "What.").sample(&Labels::one("v", "1"), 1_u64);
        let mut late = out.family("x_late_seconds", Kind::Histogram, "Late.");
        late.histogram(&Labels::none(), &[0.1, 1.0], &[2, 0, 1], 5.5);
        out.finish()
    }

    #[test]
    fn plain_text_is_as_it_should_be() {
        assert_eq!(
            written(Format::Plain),
            r#"# HELP x_checks_total Checks, "all" of\nthem \\ more.
# TYPE x_checks_total counter
x_checks_total{name="a\"b\\c\nd{}=, ü",id="1"} 3
# HELP x_age_seconds Age.
# TYPE x_age_seconds gauge
x_age_seconds 0.25
# HELP x_build_info What.
# TYPE x_build_info gauge
x_build_info{v="1"} 1
# HELP x_late_seconds Late.
# TYPE x_late_seconds histogram
x_late_seconds_bucket{le="0.1"} 2
x_late_seconds_bucket{le="1.0"} 2
x_late_seconds_bucket{le="+Inf"} 3
x_late_seconds_sum 5.5
x_late_seconds_count 3
"#
            .replace("ü", "ü\u{1b}")
        );
    }

    #[test]
    fn openmetrics_is_as_it_should_be() {
        assert_eq!(
            written(Format::OpenMetrics),
            r#"# HELP x_checks Checks, \"all\" of\nthem \\ more.
# TYPE x_checks counter
x_checks_total{name="a\"b\\c\nd{}=, ü",id="1"} 3
# HELP x_age_seconds Age.
# TYPE x_age_seconds gauge
# UNIT x_age_seconds seconds
x_age_seconds 0.25
# HELP x_build What.
# TYPE x_build info
x_build_info{v="1"} 1
# HELP x_late_seconds Late.
# TYPE x_late_seconds histogram
# UNIT x_late_seconds seconds
x_late_seconds_bucket{le="0.1"} 2
x_late_seconds_bucket{le="1.0"} 2
x_late_seconds_bucket{le="+Inf"} 3
x_late_seconds_sum 5.5
x_late_seconds_count 3
# EOF
"#
            .replace("ü", "ü\u{1b}")
        );
    }

    #[test]
    fn numbers_that_are_none_are_written_as_such() {
        let text = |value: f64| Value::from(value).to_string();
        let texts = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 1e21, 1.5e-7].map(text);
        assert_eq!(texts, ["NaN", "+Inf", "-Inf", "1000000000000000000000", "0.00000015"]);
        assert_eq!(Value::from(u64::MAX).to_string(), "18446744073709551615");
    }

    #[test]
    fn openmetrics_is_written_when_asked_for() {
        let prometheus = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,\
                          text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        for (accept, open) in [
            (prometheus, true),
            ("application/openmetrics-text; version=1.0.0; charset=utf-8", true),
            ("application/openmetrics-text", true),
            ("application/openmetrics-text;version=\"1.0.0\"", true),
            ("application/openmetrics-text;version=0.0.1", false),
            ("application/openmetrics-text;q=0.1,text/plain;q=0.5", false),
            ("application/openmetrics-text;q=0", false),
            ("application/openmetrics-text;q=x", false),
            ("text/plain", false),
            ("*/*", false),
            ("", false),
            (";;,,;q", false),
        ] {
            assert_eq!(Format::accepted(accept) == Format::OpenMetrics, open, "{accept}");
        }
    }
}
